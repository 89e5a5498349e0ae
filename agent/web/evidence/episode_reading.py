"""One episode for a page: its facts, its turns as far as they are shown, and one turn down to its tokens.

Texts are cut in the database, so that an observation of ten megabytes costs a list of turns nothing (`agent/web/views/cut_texts.py`); those
in a shard are read whole. Left out: the whole episode as one document (`agent/show/home_documents.py:episode_document`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from perdure.agent.show.terminal import visible
from perdure.agent.web.views.cut_texts import CutText, bytes_of, cut_text, decoded
from perdure.memory.environments import code_of_environment
from perdure.memory.errors import UnknownError
from perdure.memory.json_value import Document
from perdure.memory.layout.blobs import unpack_ids, unpack_logprobs
from perdure.memory.store import Store, reading_row
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.rewards import rewards_of
from perdure.memory.trajectories.turns import read_sampler, turn_rows

MOST_MEMBERS = 64
MOST_OF_FACTS = 4000
"""Characters of the instructions, of an error, and of why an answer was no action."""
FACTS = (
    "id, environment, seed, member, seat, purpose, state, success, score, total_reward, stop_reason, temperature, task, job, version, "
    "step_job, step_n, turns, code, started_at, finished_at"
)


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
class WholeTurn:
    """One turn down to its tokens, with its whole texts."""

    observation: str
    action: str
    prompt_ids: Sequence[int]
    shared: int
    """How many of them are the prompt and the answer of the turn before."""
    action_ids: Sequence[int]
    logprobs: Sequence[float]


def episode_facts(store: Store, episode: int) -> Document:
    """What an episode is and how it went, with `rewards`, `instructions` (cut), `members` and `code_now`. Raises `UnknownError`."""
    rows = store.rows(
        f"""SELECT {FACTS}, "group", {bytes_of("instructions")}, {bytes_of("error")} FROM episode WHERE id = :episode""",
        {"episode": episode, "bytes": 4 * MOST_OF_FACTS},
    )
    if not rows:
        get_episode(store, episode)  # which says what there is instead
    facts = dict(rows[0])
    sampler = facts["version"] or f"job {facts['step_job']} step {facts['step_n']}"
    played = facts["turns"] if facts["state"] != "running" else _turns_so_far(store, episode)
    return {
        **facts,
        "instructions": decoded(facts["instructions"], MOST_OF_FACTS),
        "error": decoded(facts["error"], MOST_OF_FACTS),
        "sampler": sampler,
        "turns": played,
        "rewards": rewards_of(store, episode),
        "members": _members(store, facts["group"]),
        "code_now": code_of_environment(store, facts["environment"]),
    }


def turn_texts(store: Store, episode: int, first: int, most: int, longest: int) -> list[TurnText]:
    """Turns from `first` on, each text cut to `longest` characters. Raises `ShardLost` if they are in a shard that cannot be read."""
    rows: Sequence[Any] = store.rows(
        f"""
        SELECT n, {bytes_of("observation")}, length(CAST(observation AS BLOB)) AS seen_bytes,
               {bytes_of("action")}, length(CAST(action AS BLOB)) AS said_bytes,
               substr(CAST(invalid AS BLOB), 1, {4 * MOST_OF_FACTS}) AS invalid, reward, finish,
               length(prompt_ids) / 4 + shared AS prompt_tokens, length(action_ids) / 4 AS action_tokens,
               coalesce(version, 'job ' || step_job || ' step ' || step_n) AS sampler
        FROM turn WHERE episode = :episode AND n >= :first ORDER BY n LIMIT :most
        """,
        {"episode": episode, "first": first, "most": most, "bytes": 4 * longest},
    )
    if not rows:
        rows = [_shown(row, prompt, 4 * longest) for row, prompt in turn_rows(store, [episode]) if first <= row["n"] < first + most]
    return [
        TurnText(
            n=row["n"],
            observation=cut_text(row["observation"], row["seen_bytes"], longest),
            action=cut_text(row["action"], row["said_bytes"], longest),
            reward=row["reward"],
            finish=row["finish"],
            invalid=decoded(row["invalid"], MOST_OF_FACTS),
            prompt_tokens=row["prompt_tokens"],
            action_tokens=row["action_tokens"],
            sampler=row["sampler"],
        )
        for row in rows
    ]


def _shown(row: Any, prompt: bytes, most_bytes: int) -> dict[str, Any]:
    """The columns of the query in `turn_texts`, of a turn that is in a shard."""
    texts = {column: row[column].encode("utf-8", "replace") for column in ("observation", "action")}
    return {
        **row,
        **{column: text[:most_bytes] for column, text in texts.items()},
        "seen_bytes": len(texts["observation"]),
        "said_bytes": len(texts["action"]),
        "invalid": None if row["invalid"] is None else row["invalid"].encode("utf-8", "replace"),
        "prompt_tokens": len(prompt) // 4,
        "action_tokens": len(row["action_ids"]) // 4,
        "sampler": str(read_sampler(row)),
    }


def turns_that_fit(turns: Sequence[TurnText], most_characters: int) -> list[TurnText]:
    """The first of these turns, as many as a page of this size has room for once their texts are made visible; one at least."""
    kept: list[TurnText] = []
    left = most_characters
    for turn in turns:
        left -= sum(len(escape(visible(text))) for text in (turn.observation.text, turn.action.text, turn.invalid or ""))
        if kept and left < 0:
            break
        kept.append(turn)
    return kept


def whole_turn(store: Store, episode: int, n: int) -> WholeTurn:
    """A turn with all that it has. Raises `UnknownError`."""
    found = next(((row, prompt) for row, prompt in turn_rows(store, [episode]) if row["n"] == n), None)
    if found is None:
        raise UnknownError(f"episode {episode} has no turn {n}")
    row, prompt = found
    with reading_row(f"turn {n} of episode {episode}"):
        return WholeTurn(
            observation=row["observation"],
            action=row["action"],
            prompt_ids=unpack_ids(prompt),
            shared=row["shared"],
            action_ids=unpack_ids(row["action_ids"]),
            logprobs=unpack_logprobs(row["logprobs"]),
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
