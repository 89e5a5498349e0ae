"""A demonstration in ten minutes: a careless update is refused, a careful one serves, and a kill and a rollback cost nothing."""
