"""What sampling and learning cost, beside peers."""
