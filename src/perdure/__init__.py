"""Perdure: a runtime for agents that learn from their own work and do not forget."""

__version__ = "0.1.0"
