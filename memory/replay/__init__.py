"""The replay store: episodes as they are played, token by token, and what is read of them afterwards."""
