"""What a person sees in the terminal: the live view, the summary of a run, and tables."""
