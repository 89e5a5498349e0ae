"""vLLM's server: its process, its command, and the cards that it and the learner have."""
