"""Turns as rows: exactly what was sampled, with each token of a prompt stored once.

A prompt repeats the conversation before it. `Turn.shared` says how many of its first tokens are the prompt and the answer of the turn
before. Only the tokens after them are stored, and `read_turns` puts prompts together again, token for token. A prompt that does not
continue the turn before shares nothing and is stored whole.

The turns of old episodes may be in shards (`memory/history/`). `turn_rows` reads both, and all that reads turns reads them through it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from perdure.memory.errors import InputError
from perdure.memory.history.shard_files import shard_rows
from perdure.memory.history.shard_index import get_shards, shards_of
from perdure.memory.json_value import to_json
from perdure.memory.layout.blobs import pack_ids, pack_logprobs, unpack_ids, unpack_logprobs
from perdure.memory.layout.digests import turn_digest
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.records import Sampler, StepRef, Turn, VersionRef
from perdure.memory.store import Store, reading_row


def insert_turns(conn: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write turns, each as `turn_columns` returns it, in the current transaction."""
    conn.executemany(
        """
        INSERT INTO turn (episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, invalid, reward, finish,
                          version, step_job, step_n, made_at, digest)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        rows,
    )


def turn_columns(episode: int, n: int, turn: Turn, before: Turn | None, last: int | None) -> tuple[Any, ...]:
    """The columns of a turn, its digest last; `before` is the turn before it in its episode, and `last` the digest of that.

    Raises `InputError` if the log-probs are not one per token, or the prompt does not continue `before` as it says.
    """
    if len(turn.logprobs) != len(turn.action_ids):
        raise InputError(f"turn {n} of episode {episode} has {len(turn.action_ids)} tokens, but {len(turn.logprobs)} log-probs")
    if turn.shared and not _continues(before, turn):
        raise InputError(f"turn {n} of episode {episode} shares {turn.shared} tokens with the turn before it, but does not continue it")
    columns = (
        episode,
        n,
        turn.shared,
        pack_ids(turn.prompt_ids[turn.shared :]),
        pack_ids(turn.action_ids),
        pack_logprobs(turn.logprobs),
        valid_text(turn.observation),
        valid_text(turn.action),
        None if turn.invalid is None else valid_text(turn.invalid),
        float(turn.reward),
        turn.finish,
        *sampler_columns(turn.sampler),
        time.time(),
    )
    return (*columns, turn_digest(columns, last))


def read_turns(store: Store, episodes: Sequence[int]) -> dict[int, tuple[Turn, ...]]:
    """The turns of each of these episodes. Raises `ShardLost` if those of one are in a shard that cannot be read."""
    turns: dict[int, list[Turn]] = {episode: [] for episode in episodes}
    for row, prompt in turn_rows(store, episodes):
        with reading_row(f"turn {row['n']} of episode {row['episode']}"):
            turns[row["episode"]].append(
                Turn(
                    prompt_ids=unpack_ids(prompt),
                    action_ids=unpack_ids(row["action_ids"]),
                    logprobs=unpack_logprobs(row["logprobs"]),
                    observation=row["observation"],
                    action=row["action"],
                    reward=row["reward"],
                    sampler=read_sampler(row),
                    finish=row["finish"],
                    invalid=row["invalid"],
                    shared=row["shared"],
                )
            )
    return {episode: tuple(read) for episode, read in turns.items()}


def turn_rows(store: Store, episodes: Sequence[int]) -> Iterator[tuple[Any, bytes]]:
    """The rows of their turns, by episode and number, each with its whole prompt as packed ids. Raises `ShardLost` as `read_turns`."""
    episode, history = None, b""
    for row in _rows(store, episodes):
        if row["episode"] != episode:
            episode, history = row["episode"], b""
        prompt = history[: 4 * row["shared"]] + row["prompt_ids"]
        history = prompt + row["action_ids"]
        yield row, prompt


def _rows(store: Store, episodes: Sequence[int]) -> Iterable[Any]:
    """The rows of the database and of shards, by episode and number."""
    with store.read():  # of one moment: an archive that runs moves turns in one transaction
        rows = store.rows(
            "SELECT * FROM turn WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, n", (to_json(list(episodes)),)
        )
        where = shards_of(store, episodes)
        shards = get_shards(store, where.values()) if where else []
    if not shards:
        return rows
    moved = (shard_rows(store, shard, [episode for episode, its in where.items() if its == shard.id]) for shard in shards)
    return sorted((*rows, *chain.from_iterable(moved)), key=lambda row: (row["episode"], row["n"]))


def read_sampler(row: Any) -> Sampler:
    """The policy that sampled a turn or plays an episode, from its row."""
    if row["version"] is not None:
        return VersionRef(row["version"])
    return StepRef(row["step_job"], row["step_n"])


def sampler_columns(sampler: Sampler) -> tuple[str | None, int | None, int | None]:
    """`version`, `step_job` and `step_n` of a row."""
    if isinstance(sampler, VersionRef):
        return sampler.name, None, None
    return None, sampler.job, sampler.n


def valid_text(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced by '?', so that no environment can stop the journal."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _continues(before: Turn | None, turn: Turn) -> bool:
    """Whether a turn shares the whole turn before it. Compares the answer alone.

    The prompt was compared when the turn was made (`envs/rollout.py:play`); to compare it again would cost more than the insert.
    """
    if before is None:
        return False
    prompt = len(before.prompt_ids)
    return turn.shared == prompt + len(before.action_ids) and turn.prompt_ids[prompt : turn.shared] == before.action_ids
