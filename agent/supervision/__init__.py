"""What keeps the agent alive: the supervisor, its clock, its children, and what it decides."""
