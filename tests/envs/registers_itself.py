"""A module that registers environments with Gymnasium when it is imported, as third-party packages do."""

from __future__ import annotations

import gymnasium
from gymnasium.envs.registration import WrapperSpec
from tests.envs.faulty import Counting


class Weighted(Counting):
    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__(sum(weights.values()))


gymnasium.register("tests/Counting-v0", entry_point="tests.envs.faulty:Counting", max_episode_steps=10)
gymnasium.register(
    "tests/Flattened-v0",
    entry_point="gymnasium.envs.toy_text.blackjack:BlackjackEnv",
    additional_wrappers=(WrapperSpec("FlattenObservation", "gymnasium.wrappers:FlattenObservation", {}),),
)
gymnasium.register("tests/Weighted-v0", entry_point=Weighted, kwargs={"weights": {"a": 1}})
