"""A run's config: the settings of all rooms in one tree, variants, deleted keys."""
