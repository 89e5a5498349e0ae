"""`perdure bench cluster`: players, the journal and a lost node, measured on this machine; and a model of the cycle past it."""
