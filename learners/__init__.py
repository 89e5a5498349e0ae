"""How the agent changes: model, engine, learners, probes and the gate."""
