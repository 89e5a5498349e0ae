"""Environments in processes of their own: host, worker, and what they say to each other."""
