"""The sections of a report: each from a study's data to HTML, and empty if the study has nothing for it."""
