"""The web process: an API and pages over a home."""
