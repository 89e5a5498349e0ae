"""The stream of live tasks: its stages and settings, and which task comes next."""
