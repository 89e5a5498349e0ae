"""Environments in processes of their own: host, workers, and their messages."""
