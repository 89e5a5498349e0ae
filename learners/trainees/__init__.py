"""Models in training: an adapter, or all weights."""
