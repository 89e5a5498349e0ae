"""The replay store: episodes, written token by token while they are played, and the queries on them."""
