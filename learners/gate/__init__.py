"""The gate decides whether a candidate may serve: its rules, the episodes it plays, and its error rates."""
