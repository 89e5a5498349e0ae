"""A mixture of two modes, the paper's picture of forgetting: forward KL against reverse KL, with what its result rests on."""
