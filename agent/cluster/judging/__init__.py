"""Gates and probes that players elsewhere play: the player in the job's process that hands out errands, and the one that plays them."""
