"""A module that registers an environment with Gymnasium when it is imported, as third-party packages do."""

from __future__ import annotations

import gymnasium

gymnasium.register("tests/Counting-v0", entry_point="tests.envs.faulty:Counting", max_episode_steps=10)
