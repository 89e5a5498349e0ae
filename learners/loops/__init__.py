"""The learners. Each is a loop that turns episodes into updates."""
