"""Retention of old skills. Left out: replay and KL terms, which are lessons (`learners/batches.py`).

Each file is one method: a plain function that gives a learner a term of its loss (`extra_losses`) or another gradient
(`project_gradient`), or that mixes weights afterwards. docs/learners.md says what each costs.
"""
