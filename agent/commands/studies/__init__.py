"""`perdure study` and `perdure report`: studies, their reports, and the same metrics of a home."""
