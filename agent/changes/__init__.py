"""What persons change: one function for each way in which a person writes to a home, by command line, API or page."""
