"""The contracts between command, daemon, learner and gate: orders, results, updates and evidence, as frozen records."""
