"""Which step of a learning job becomes its candidate: checks on dev seeds, the choice, and the weights that are kept for it."""
