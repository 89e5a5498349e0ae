"""One episode for a page: its facts, its turns as far as they are shown, and one turn down to its tokens.

Texts are cut in the database, so that an observation of ten megabytes costs a page nothing. Left out: the whole episode as one document
(`agent/show/home_documents.py:episode_document`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perdure.memory.layout.blobs import unpack_ids, unpack_logprobs
from perdure.memory.environments import code_of_environment
from perdure.memory.errors import UnknownError
from perdure.memory.json_value import Document
from perdure.memory.store import Store, reading_row
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.rewards import rewards_of
from perdure.memory.trajectories.turns import turn_rows

MOST_MEMBERS = 64
FACTS = (
    "id, environment, seed, member, seat, purpose, state, success, score, total_reward, stop_reason, temperature, task, job, version, "
    "step_job, step_n, turns, error, code, started_at, finished_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutText:
    """A part of a text that may be long."""

    text: str
    start: int
    in_all: int
    """Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnText:
    """One turn without its tokens."""

    n: int
    observation: CutText
    action: CutText
    reward: float
    finish: str
    invalid: str | None
    prompt_tokens: int
    action_tokens: int
    sampler: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTokens:
    """The tokens of one turn."""

    prompt_ids: Sequence[int]
    shared: int
    """How many of them are the prompt and the answer of the turn before."""
    action_ids: Sequence[int]
    logprobs: Sequence[float]


def episode_facts(store: Store, episode: int) -> Document:
    """What an episode is and how it went, with `rewards`, `instructions` (cut), `members` and `code_now`. Raises `UnknownError`."""
    rows = store.rows(f'SELECT {FACTS}, "group", substr(instructions, 1, 4000) AS instructions FROM episode WHERE id = ?', (episode,))
    if not rows:
        get_episode(store, episode)  # which says what there is instead
    facts = dict(rows[0])
    sampler = facts["version"] or f"job {facts['step_job']} step {facts['step_n']}"
    played = facts["turns"] if facts["state"] != "running" else _turns_so_far(store, episode)
    return {
        **facts,
        "sampler": sampler,
        "turns": played,
        "rewards": rewards_of(store, episode),
        "members": _members(store, facts["group"]),
        "code_now": code_of_environment(store, facts["environment"]),
    }


def turn_texts(store: Store, episode: int, first: int, most: int, longest: int) -> list[TurnText]:
    """Turns from `first` on, each text cut to `longest` characters."""
    return [_turn_text(row) for row in _turn_rows(store, episode, first, most, 1, 1, longest)]


def one_turn(store: Store, episode: int, n: int, *, observation: int, action: int, longest: int) -> tuple[TurnText, TurnTokens]:
    """A turn with texts from these characters on, and all of its tokens. Raises `UnknownError`."""
    rows = _turn_rows(store, episode, n, 1, observation + 1, action + 1, longest)
    if not rows or rows[0]["n"] != n:
        raise UnknownError(f"episode {episode} has no turn {n}")
    with reading_row(f"turn {n} of episode {episode}"):
        row, prompt = next((row, prompt) for row, prompt in turn_rows(store, [episode]) if row["n"] == n)
        tokens = TurnTokens(
            prompt_ids=unpack_ids(prompt),
            shared=row["shared"],
            action_ids=unpack_ids(row["action_ids"]),
            logprobs=unpack_logprobs(row["logprobs"]),
        )
    return _turn_text(rows[0]), tokens


def _turn_rows(store: Store, episode: int, first: int, most: int, observation: int, action: int, longest: int) -> list[Any]:
    return store.rows(
        """
        SELECT n, substr(observation, :observation, :longest) AS seen, length(observation) AS seen_in_all, :observation - 1 AS seen_from,
               substr(action, :action, :longest) AS said, length(action) AS said_in_all, :action - 1 AS said_from,
               reward, finish, substr(invalid, 1, 1000) AS invalid, length(prompt_ids) / 4 + shared AS prompt_tokens,
               length(action_ids) / 4 AS action_tokens, coalesce(version, 'job ' || step_job || ' step ' || step_n) AS sampler
        FROM turn WHERE episode = :episode AND n >= :first ORDER BY n LIMIT :most
        """,
        {"episode": episode, "first": first, "most": most, "observation": observation, "action": action, "longest": longest},
    )


def _turn_text(row: Any) -> TurnText:
    return TurnText(
        n=row["n"],
        observation=CutText(text=row["seen"], start=row["seen_from"], in_all=row["seen_in_all"]),
        action=CutText(text=row["said"], start=row["said_from"], in_all=row["said_in_all"]),
        reward=row["reward"],
        finish=row["finish"],
        invalid=row["invalid"],
        prompt_tokens=row["prompt_tokens"],
        action_tokens=row["action_tokens"],
        sampler=row["sampler"],
    )


def _turns_so_far(store: Store, episode: int) -> int:
    return int(store.rows("SELECT count(*) AS n FROM turn WHERE episode = ?", (episode,))[0]["n"])


def _members(store: Store, group: str) -> list[Document]:
    """The episodes of a group that are completed or running: each kind has an index of its own."""
    columns = "id, member, seat, state, success, total_reward, turns"
    rows = store.rows(
        f"""
        SELECT {columns} FROM episode WHERE "group" = :group AND state = 'completed'
        UNION ALL SELECT {columns} FROM episode WHERE "group" = :group AND state = 'running'
        ORDER BY member, id LIMIT :most
        """,
        {"group": group, "most": MOST_MEMBERS},
    )
    return [dict(row) for row in rows]
