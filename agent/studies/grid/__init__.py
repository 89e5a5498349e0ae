"""Studies of learners that a TOML file describes: arms, streams, orders and seeds, run cell by cell with the real learners."""
