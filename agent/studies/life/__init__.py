"""Lives of homes, for real: the daemon on the default stream, beside a naive life and one joint job."""
