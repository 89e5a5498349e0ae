"""Base models, adapters and other weights, on disk and in memory."""
