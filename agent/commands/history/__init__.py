"""Questions to the history of a home."""
