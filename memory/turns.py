"""Turns as rows: exactly what was sampled, with each token of a prompt kept once.

A prompt repeats all that was said before it. Of each turn only the tokens after what it shares with the turn before are kept, with their
number (`shared`); `read_turns` puts prompts together again, token for token. A prompt that does not continue the turn before shares
less, and is kept as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from perdure.memory.blobs import pack_ids, pack_logprobs, unpack_ids, unpack_logprobs
from perdure.memory.errors import InputError
from perdure.memory.records import Sampler, StepRef, Turn, VersionRef
from perdure.memory.store import Store, sqlite3, to_json


def insert_turns(conn: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write turns, each as `turn_columns` gives it, in the present transaction."""
    conn.executemany(
        """
        INSERT INTO turn (episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, reward, finish,
                          version, step_job, step_n, made_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        rows,
    )


def turn_columns(episode: int, n: int, turn: Turn, before: Turn | None) -> tuple[Any, ...]:
    """The columns of a turn; `before` is the turn before it in its episode. Raises `InputError`."""
    if len(turn.logprobs) != len(turn.action_ids):
        raise InputError(f"turn {n} of episode {episode} has {len(turn.action_ids)} tokens, but {len(turn.logprobs)} log-probs")
    shared = _shared(before, turn.prompt_ids)
    return (
        episode,
        n,
        shared,
        pack_ids(turn.prompt_ids[shared:]),
        pack_ids(turn.action_ids),
        pack_logprobs(turn.logprobs),
        valid_text(turn.observation),
        valid_text(turn.action),
        float(turn.reward),
        turn.finish,
        *sampler_columns(turn.sampler),
        time.time(),
    )


def read_turns(store: Store, episodes: Sequence[int]) -> dict[int, tuple[Turn, ...]]:
    """The turns of each of these episodes, as they were journalled."""
    sql = "SELECT * FROM turn WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, n"
    turns: dict[int, list[Turn]] = {episode: [] for episode in episodes}
    for row in store.rows(sql, (to_json(list(episodes)),)):
        before = turns[row["episode"]]
        said = before[-1].prompt_ids + before[-1].action_ids if before else ()
        before.append(
            Turn(
                prompt_ids=said[: row["shared"]] + unpack_ids(row["prompt_ids"]),
                action_ids=unpack_ids(row["action_ids"]),
                logprobs=unpack_logprobs(row["logprobs"]),
                observation=row["observation"],
                action=row["action"],
                reward=row["reward"],
                sampler=read_sampler(row),
                finish=row["finish"],
            )
        )
    return {episode: tuple(found) for episode, found in turns.items()}


def as_kept(turn: Turn) -> Turn:
    """A turn as it reads after a round through the store: log-probs as float32, texts as valid Unicode."""
    return Turn(
        prompt_ids=tuple(turn.prompt_ids),
        action_ids=tuple(turn.action_ids),
        logprobs=unpack_logprobs(pack_logprobs(turn.logprobs)),
        observation=valid_text(turn.observation),
        action=valid_text(turn.action),
        reward=float(turn.reward),
        sampler=turn.sampler,
        finish=turn.finish,
    )


def read_sampler(row: Any) -> Sampler:
    """Who sampled a turn or plays an episode, from its row."""
    if row["version"] is not None:
        return VersionRef(row["version"])
    return StepRef(row["step_job"], row["step_n"])


def sampler_columns(sampler: Sampler) -> tuple[str | None, int | None, int | None]:
    """`version`, `step_job` and `step_n` of a row."""
    if isinstance(sampler, VersionRef):
        return sampler.name, None, None
    return None, sampler.job, sampler.n


def valid_text(text: str) -> str:
    """A text with what UTF-8 cannot hold (lone surrogates) replaced by '?', so that a strange environment cannot stop the journal."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _shared(before: Turn | None, prompt: tuple[int, ...]) -> int:
    """How many leading tokens of a prompt were said before: equal to the prompt and the answer of the turn before it."""
    if before is None:
        return 0
    asked, said = len(before.prompt_ids), len(before.prompt_ids) + len(before.action_ids)
    if prompt[:asked] == before.prompt_ids and prompt[asked:said] == before.action_ids:  # the usual case, at the speed of C
        return said
    pairs = zip(before.prompt_ids + before.action_ids, prompt, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(said, len(prompt)))
