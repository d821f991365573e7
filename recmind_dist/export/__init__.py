"""Makes a bundle of a finished run."""
