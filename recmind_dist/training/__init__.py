"""The training loop of one rank: epochs, the step, the loss, and the shard of the model."""
