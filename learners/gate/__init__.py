"""Whether a candidate may serve: what is decided, what is played for it, and how sure that is."""
