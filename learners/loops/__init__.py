"""The learners: each a loop that turns episodes into updates."""
