"""The formulas of the metrics, by family, each with its source: pure functions of the R matrix, of items and of curves."""
