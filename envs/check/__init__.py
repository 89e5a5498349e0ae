"""`perdure env check`: the rules for environments, and how they are checked."""
