"""Episodes as documents: exports, and imports from other pipelines."""
