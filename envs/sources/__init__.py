"""Where environments come from: an adapter for each package or protocol, and how spaces become text."""
