"""Cells of a study that are done on other machines: how they are told, what a node does, and what the head makes of its answers."""
