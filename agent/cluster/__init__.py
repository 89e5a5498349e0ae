"""More than one machine: pieces of work that run elsewhere, and what starts, watches and ends them."""
