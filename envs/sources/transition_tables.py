"""The right action in a small world with a public table of transitions, as in Gymnasium's FrozenLake, CliffWalking and Taxi."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Table = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""State -> action -> possible transitions: probability, next state, reward, whether it ends. States and actions count from 0."""

DISCOUNT = 0.999
"""Below 1, so that of two ways with the same return the shorter one is better."""


def best_actions(table: Table) -> list[int] | None:
    """For each state the action that leads to the highest return, by value iteration (Bellman 1957). None if transitions are random."""
    if any(len(outcomes) != 1 for actions in table.values() for outcomes in actions.values()):
        return None
    outcomes_SA3 = np.array([[table[state][action][0][1:] for action in range(len(table[0]))] for state in range(len(table))], dtype=float)
    next_SA, reward_SA = outcomes_SA3[..., 0].astype(int), outcomes_SA3[..., 1]
    weight_SA = DISCOUNT * (1.0 - outcomes_SA3[..., 2])
    value_S = np.zeros(len(table))
    worth_SA = reward_SA
    for _ in range(len(table)):  # no shortest way is longer
        worth_SA = reward_SA + weight_SA * value_S[next_SA]
        if np.array_equal(worth_SA.max(axis=1), value_S):
            break
        value_S = worth_SA.max(axis=1)
    best: list[int] = worth_SA.argmax(axis=1).tolist()
    return best
