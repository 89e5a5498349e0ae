"""What keeps old skills, beside replay and KL terms, which are lessons like any other (`learners/batches.py`).

Each file is one way: a plain function that gives a learner a term of its loss (`extra_losses`) or another gradient to follow
(`project_gradient`), or that mixes weights afterwards. docs/learners.md says what each costs.
"""
