"""Rewards that a person or a program gives an episode afterwards, each with its source. What the environment said stays as it was."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from perdure.memory.errors import InputError
from perdure.memory.store import Store, to_json

OURS = ("environment", "py:")
"""What a learner calls the environment's own rewards, and how the names of reward models begin: no source is called so."""


def add_rewards(store: Store, source: str, rewards: Mapping[int, float]) -> None:
    """Give episodes their returns, all or none; one that this source has judged before is judged anew.

    Raises `InputError` for a source without a name or with one of `OURS`, a return that is not finite, and an episode that there is not
    or that did not complete.
    """
    if not source.strip() or source == OURS[0] or source.startswith(OURS[1]):
        raise InputError(f"{source!r} cannot be a source of rewards: name who gives them, such as 'anna' or 'judge-2'")
    for episode, reward in rewards.items():
        if not math.isfinite(reward):
            raise InputError(f"the reward of episode {episode} is {reward}: it must be a finite number")
    with store.write() as conn:
        rows = store.rows("SELECT id, state FROM episode WHERE id IN (SELECT value FROM json_each(?))", (to_json(list(rewards)),))
        found = {row["id"]: row["state"] for row in rows}
        for episode in rewards:
            if found.get(episode) != "completed":
                why = f"is {found[episode]}: only completed ones are judged" if episode in found else "is not in this home"
                raise InputError(f"episode {episode} {why}")
        conn.executemany(
            """
            INSERT INTO reward (episode, source, value, made_at) VALUES (?, ?, ?, ?)
            ON CONFLICT (episode, source) DO UPDATE SET value = excluded.value, made_at = excluded.made_at
            """,
            [(episode, source, float(reward), time.time()) for episode, reward in rewards.items()],
        )


def rewards_from(store: Store, source: str, episodes: Sequence[int]) -> dict[int, float]:
    """The returns that a source gave these episodes; those that it did not judge are left out."""
    rows = store.rows(
        "SELECT episode, value FROM reward WHERE source = ? AND episode IN (SELECT value FROM json_each(?))",
        (source, to_json(list(episodes))),
    )
    return {row["episode"]: row["value"] for row in rows}


def rewards_of(store: Store, episode: int) -> dict[str, float]:
    """The returns of one episode, by source."""
    rows = store.rows("SELECT source, value FROM reward WHERE episode = ? ORDER BY source", (episode,))
    return {row["source"]: row["value"] for row in rows}


def sources(store: Store) -> list[str]:
    """Who has given rewards."""
    return [row["source"] for row in store.rows("SELECT DISTINCT source FROM reward ORDER BY source")]
