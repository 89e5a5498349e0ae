"""Engines sample from models: in this process or through a vLLM server. Here too: token trees, and conversations as token ids."""
