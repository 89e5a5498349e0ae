"""The life of the agent: configuration, command line, and the processes that play and learn."""
