"""Item vectors that learn from the log before training; vectors for items without a text."""
