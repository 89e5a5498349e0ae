"""`perdure env check`: the rules that an environment keeps, and how they are tried."""
