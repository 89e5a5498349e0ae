"""Rewards that a person or a program gives an episode later, each with its source. The environment's own rewards stay as they are."""

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
"""Names that no source may have: the environment's own rewards, and the prefix of reward models."""

MOST_REWARD = 1e12
"""A reward is at most this large in size, so that sums and squares of rewards stay exact enough to learn from."""

NAMED = 5
"""How many bad lines of a file an error names."""


def add_rewards(store: Store, source: str, rewards: Mapping[int, float]) -> None:
    """Write the returns that a source gives these episodes, all or none. They replace earlier ones of the source.

    Raises `InputError` for an empty or reserved name of the source, a return that is not finite, and an episode that is missing or did not
    complete.
    """
    if not source.strip() or source == OURS[0] or source.startswith(OURS[1]):
        raise InputError(f"{source!r} cannot be a source of rewards: name the person or program, such as 'anna' or 'judge-2'")
    for episode, reward in rewards.items():
        if not math.isfinite(reward):
            raise InputError(f"the reward of episode {episode} is {reward}: it must be a finite number")
        if abs(reward) > MOST_REWARD:
            raise InputError(
                f"the reward of episode {episode} is {reward:g}: it is at most {MOST_REWARD:g} in size, so that sums are numbers"
            )
    with store.write() as conn:
        if bad := not_judgeable(store, list(rewards)):
            raise InputError(next(iter(bad.values())))
        conn.executemany(
            """
            INSERT INTO reward (episode, source, value, made_at) VALUES (?, ?, ?, ?)
            ON CONFLICT (episode, source) DO UPDATE SET value = excluded.value, made_at = excluded.made_at
            """,
            [(episode, source, float(reward), time.time()) for episode, reward in rewards.items()],
        )


def not_judgeable(store: Store, episodes: Sequence[int]) -> dict[int, str]:
    """The episodes among these that cannot get a reward, each with the reason."""
    rows = store.rows("SELECT id, state FROM episode WHERE id IN (SELECT value FROM json_each(?))", (to_json(list(episodes)),))
    states = {row["id"]: row["state"] for row in rows}
    return {
        episode: f"episode {episode} is {states[episode]}: only completed ones get rewards"
        if episode in states
        else f"episode {episode} is not in this home: `perdure episode list` shows those that are"
        for episode in episodes
        if states.get(episode) != "completed"
    }


def read_rewards(store: Store, file: Path) -> dict[int, float]:
    """Rewards by episode from a file of JSON lines such as `{"episode": 12, "reward": 0.5}`; empty lines are skipped.

    Raises `InputError` that names the bad lines, and if the file cannot be read or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: write one JSON object per line") from error
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
    bad |= {line_of[episode]: why for episode, why in not_judgeable(store, list(rewards)).items()}
    if bad:
        raise InputError(f"{file}: {'; '.join(_named(bad))}. Nothing was written")
    if not rewards:
        raise InputError(f"{file} has no rewards: write one JSON object per line, such as {_FORM}")
    return rewards


def rewards_from(store: Store, source: str, episodes: Sequence[int]) -> dict[int, float]:
    """The returns that a source gave these episodes, without those that it did not judge."""
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
    """The names of all sources."""
    return [row["source"] for row in store.rows("SELECT DISTINCT source FROM reward ORDER BY source")]


_FORM = '{"episode": 12, "reward": 0.5}'


def _judgement(line: str) -> tuple[int, float]:
    """Raises `ValueError` with what is wrong."""
    try:
        document: Any = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.keys() != {"episode", "reward"}:
        raise ValueError(f"is not of the form {_FORM}")
    episode, reward = document["episode"], document["reward"]
    if type(episode) is not int or not 0 < episode < 2**63:
        raise ValueError(f"episode {episode!r} is not the number of an episode")
    if type(reward) not in (int, float) or not -sys.float_info.max <= reward <= sys.float_info.max:  # an int can be larger than any float
        raise ValueError(f"reward {str(reward)[:40]} is not a finite number")
    if abs(reward) > MOST_REWARD:
        raise ValueError(f"reward {reward:g} is more than {MOST_REWARD:g} in size")
    return episode, float(reward)


def _named(bad: Mapping[int, str]) -> Iterator[str]:
    for number in sorted(bad)[:NAMED]:
        yield f"line {number}: {bad[number]}"
    if len(bad) > NAMED:
        yield f"and {len(bad) - NAMED} more lines"
