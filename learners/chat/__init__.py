"""Conversations as tokens, by the model's own chat template: `template_chat.py` is what engines use."""
