"""Looking after a store that grows: checks, backups, archives, and files that nobody needs any more."""
