"""The stages of a run: prepare, embed, train, evaluate."""
