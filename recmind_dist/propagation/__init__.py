"""Exact propagation over the whole graph, and means of users' items."""
