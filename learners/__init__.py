"""Learning: models, engines, learners, probes and the gate."""
