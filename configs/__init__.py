"""Recipes as YAML, installed with the package as `recmind_dist.configs`."""
