"""Prompts of many kinds, outside every environment, on which a job keeps what the model could do before."""
