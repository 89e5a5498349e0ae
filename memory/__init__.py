"""What happened: the replay store, its schema, and the versions of the agent."""
