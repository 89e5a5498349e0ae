"""Rewards that a person or a program gives an episode afterwards, each with its source. What the environment said stays as it was."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perdure.memory.errors import InputError
from perdure.memory.json_value import to_json
from perdure.memory.store import Store

OURS = ("environment", "py:")
"""What a learner calls the environment's own rewards, and how the names of reward models begin: no source is called so."""

NAMED = 5
"""Bad lines of a file that are named one by one."""


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
        if bad := refused(store, list(rewards)):
            raise InputError(next(iter(bad.values())))
        conn.executemany(
            """
            INSERT INTO reward (episode, source, value, made_at) VALUES (?, ?, ?, ?)
            ON CONFLICT (episode, source) DO UPDATE SET value = excluded.value, made_at = excluded.made_at
            """,
            [(episode, source, float(reward), time.time()) for episode, reward in rewards.items()],
        )


def refused(store: Store, episodes: Sequence[int]) -> dict[int, str]:
    """Those of these episodes that cannot be judged, each with the reason in words."""
    rows = store.rows("SELECT id, state FROM episode WHERE id IN (SELECT value FROM json_each(?))", (to_json(list(episodes)),))
    found = {row["id"]: row["state"] for row in rows}
    return {
        episode: f"episode {episode} is {found[episode]}: only completed ones are judged"
        if episode in found
        else f"episode {episode} is not in this home: `perdure episode list` shows what is"
        for episode in episodes
        if found.get(episode) != "completed"
    }


def read_rewards(store: Store, file: Path) -> dict[int, float]:
    """Rewards by episode from a file of JSON lines such as `{"episode": 12, "reward": 0.5}`; empty lines are passed over.

    Raises `InputError` naming the lines that are not such or whose episodes cannot be judged, and a file that cannot be read or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: write one JSON object a line") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    bad: dict[int, str] = {}
    rewards: dict[int, float] = {}
    line_of: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            episode, reward = _judgement(line)
        except ValueError as error:
            bad[number] = str(error)
            continue
        if episode in line_of:
            bad[number] = f"episode {episode} is on line {line_of[episode]} already"
            continue
        line_of[episode], rewards[episode] = number, reward
    bad |= {line_of[episode]: why for episode, why in refused(store, list(rewards)).items()}
    if bad:
        raise InputError(f"{file}: {'; '.join(_named(bad))}. Nothing was written")
    if not rewards:
        raise InputError(f"{file} holds no rewards: write one JSON object a line, such as {_FORM}")
    return rewards


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


_FORM = '{"episode": 12, "reward": 0.5}'


def _judgement(line: str) -> tuple[int, float]:
    """Raises `ValueError` with what is wrong."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.keys() != {"episode", "reward"}:
        raise ValueError(f"is not of the form {_FORM}")
    episode, reward = found["episode"], found["reward"]
    if type(episode) is not int or not 0 < episode < 2**63:
        raise ValueError(f"episode {episode!r} is no number of an episode")
    if type(reward) not in (int, float) or not -sys.float_info.max <= reward <= sys.float_info.max:  # whole numbers have no end
        raise ValueError(f"reward {str(reward)[:40]} is no finite number")
    return episode, float(reward)


def _named(bad: Mapping[int, str]) -> Iterator[str]:
    for number in sorted(bad)[:NAMED]:
        yield f"line {number}: {bad[number]}"
    if len(bad) > NAMED:
        yield f"and {len(bad) - NAMED} more lines"
