"""How rows lie in the file: the schema of the first release, and the digests of rows."""
