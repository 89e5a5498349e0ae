"""Players: processes elsewhere that play for a home, with an engine of their own, and tell its journal."""
