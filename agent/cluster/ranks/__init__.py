"""The ranks of learning jobs: how a job gets them, on this machine or from the cluster, and the piece that is one of them."""
