"""What can be attempted: environments, their registry and check, and the loop that plays them."""
