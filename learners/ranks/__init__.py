"""One learning job on several ranks: processes that hold the same weights, share a batch, and step alike."""
