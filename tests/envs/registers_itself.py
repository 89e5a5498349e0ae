"""A module that registers environments with Gymnasium when it is imported, as third-party packages do."""

from __future__ import annotations

import gymnasium
from gymnasium.envs.registration import WrapperSpec

gymnasium.register("tests/Counting-v0", entry_point="tests.envs.faulty:Counting", max_episode_steps=10)
gymnasium.register(
    "tests/Flattened-v0",
    entry_point="gymnasium.envs.toy_text.blackjack:BlackjackEnv",
    additional_wrappers=(WrapperSpec("FlattenObservation", "gymnasium.wrappers:FlattenObservation", {}),),
)
