"""Sources of environments: an adapter for each package or protocol, and spaces as text."""
