"""What samples: the in-process engine, token trees, merged weights, conversations as token ids."""
