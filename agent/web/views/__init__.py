"""What pages and API show that no command shows: documents made of a store, without a web framework."""
