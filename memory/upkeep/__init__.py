"""Upkeep of a store that grows: checks, backups, archives, and files that are no longer needed."""
