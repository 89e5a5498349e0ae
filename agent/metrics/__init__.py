"""Metrics over a sequence of updates: what was gained, what was lost, at what cost. Pure functions on one table of observations."""
