"""What training has on a GPU alone: captured graphs and a stream of its own for batches."""
