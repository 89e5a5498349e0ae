"""The groups that a batch of a learning job is made of: which environments, and whether they are played or taken from live play."""
