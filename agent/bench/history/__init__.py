"""How fast old turns move into shards, and how fast SQL over many of them is."""
