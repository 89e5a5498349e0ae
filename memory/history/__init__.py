"""The history: turns of old episodes in immutable Parquet shards, read as if they were still in the store, and SQL over both."""
