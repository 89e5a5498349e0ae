"""Stored episodes to learn from again: of live play, of a learning job, or of another pipeline.

Left out: episodes of gates and probes, of other seats, and those that had the right answer in the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from perdure.memory.errors import UnknownError
from perdure.memory.json_value import JsonObject, to_json
from perdure.memory.layout.blobs import unpack_ids
from perdure.memory.records import Episode
from perdure.memory.store import Params, Store, reading_row
from perdure.memory.trajectories.episodes import episodes_by_id

IMPORT = "import:"
"""How the option `traces` of a learner begins if it names an import; its label follows."""
_TEXTS = ("reasoning_content", "tool_call_id", "name")
"""Keys of a stored message that are texts, if it has them."""
AT_A_TIME = 256
"""Episodes read at once."""
MOST = 20_000
"""At most this many episodes are considered, newest first."""
NEWEST = 2**63 - 1
"""No episode has a higher id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A stored episode, and how many policies came after the one that sampled it."""

    episode: Episode
    staleness: int
    """Promotions and rollbacks since its version served, or updates of its job since its step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTrace:
    """An episode of another pipeline, with as much of its turns as that pipeline kept."""

    id: int
    environment: str
    seed: int | None
    base_model: str | None
    base_hash: str | None
    success: bool | None
    total_reward: float | None
    turns: tuple[ForeignExchange, ...]
    instructions: str | None = None
    """The system message of its task; None: that of the environment."""
    tools: tuple[JsonObject, ...] = ()
    """The tools that it could call, in the shape of OpenAI's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignExchange:
    """One prompt and its answer: ids, texts or both."""

    messages: tuple[JsonObject, ...] | None
    """The whole conversation before the answer, in the shape of OpenAI's messages (`exchange/conversation.py`)."""
    observation: str | None
    prompt_ids: tuple[int, ...] | None
    action: str | None
    action_ids: tuple[int, ...] | None
    answer: JsonObject | None = None
    """The answer as a message; None if its text or tokens are all of it."""


def live_traces(store: Store, environments: Sequence[str], staleness: int, *, job: int | None = None) -> Iterator[Trace]:
    """Completed live episodes of these environments, newest first, that are at most `staleness` promotions and rollbacks behind.

    With `job`, only episodes older than the first one of the job, so that a resumed job finds the same ones again.
    """
    return _traces(
        store,
        """
        SELECT e.id, (SELECT count(*) FROM move later WHERE later.id >
                      (SELECT max(own.id) FROM move own WHERE own.to_version = e.version)) AS staleness
        FROM episode e WHERE e.purpose = 'live' AND e.state = 'completed' AND e.seat = 0 AND e.turns > 0
          AND e.environment IN (SELECT value FROM json_each(:environments))
          AND e.id < coalesce((SELECT min(id) FROM episode WHERE job = :job), 9223372036854775807) ORDER BY e.id DESC LIMIT :most
        """,
        {"environments": to_json(list(environments)), "job": job, "most": MOST},
        staleness,
    )


def job_traces(store: Store, job: int, environments: Sequence[str], staleness: int) -> Iterator[Trace]:
    """Completed episodes that a learning job played in these environments, newest first, at most `staleness` updates behind its last.

    Raises `UnknownError` if the job has played none.
    """
    if not store.rows("SELECT 1 FROM episode WHERE job = ? AND purpose IN ('learn', 'hinted') LIMIT 1", (job,)):
        raise UnknownError(f"job {job} has played nothing to learn from: `perdure status` shows the jobs")
    return _traces(
        store,
        """
        SELECT e.id, (SELECT max(step_n) FROM episode WHERE job = :job AND purpose <> 'probe') - e.step_n AS staleness
        FROM episode e WHERE e.job = :job AND e.purpose = 'learn' AND e.state = 'completed' AND e.seat = 0 AND e.turns > 0
          AND e.environment IN (SELECT value FROM json_each(:environments))
        ORDER BY e.id DESC LIMIT :most
        """,
        {"job": job, "environments": to_json(list(environments)), "most": MOST},
        staleness,
    )


def episodes_of_step(store: Store, job: int, n: int, *, hinted: bool) -> list[Episode]:
    """What the latest attempt at a job's n-th step played there to learn from, with the right answer in the prompt or without it."""
    rows = store.rows(
        """
        SELECT id FROM episode e WHERE job = ? AND step_n = ? AND purpose = ? AND state = 'completed' AND seat = 0
          AND attempt = (
            SELECT max(attempt) FROM episode own
            WHERE own.job = e.job AND own.step_n = e.step_n AND own.purpose IN ('learn', 'hinted')
          ) ORDER BY id
        """,
        (job, n, "hinted" if hinted else "learn"),
    )
    return episodes_by_id(store, [row["id"] for row in rows])


def recent_groups(store: Store, environment: str, most: int, *, until: int = NEWEST) -> list[list[Episode]]:
    """The newest groups of live episodes of an environment, newest first; of episodes up to the id `until`. Groups whose turns cannot be
    read are left out."""
    rows = store.rows(
        """
        SELECT "group", json_group_array(id) AS ids FROM (
            SELECT id, "group" FROM episode
            WHERE environment = ? AND purpose = 'live' AND state = 'completed' AND seat = 0 AND turns > 0 AND id <= ?
            ORDER BY id DESC LIMIT ?
        ) GROUP BY "group" ORDER BY max(id) DESC LIMIT ?
        """,
        (environment, until, MOST, most),
    )
    return [group for row in rows if (group := episodes_by_id(store, json.loads(row["ids"])))]


def require_import(store: Store, label: str) -> None:
    """Raise `UnknownError` if nothing was imported under this label."""
    known = [row["label"] for row in store.rows("SELECT DISTINCT label FROM import_batch ORDER BY label")]
    if label not in known:
        there = ", ".join(known) or "no import yet: see `perdure store import`"
        raise UnknownError(f"nothing was imported as {label!r}; there is {there}")


def foreign_traces(store: Store, label: str) -> list[ForeignTrace]:
    """The imported episodes of a label, newest first. Raises `UnknownError` if nothing was imported under it."""
    rows = store.rows(
        "SELECT f.* FROM foreign_episode f JOIN import_batch b ON b.id = f.batch WHERE b.label = ? ORDER BY f.id DESC LIMIT ?",
        (label, MOST),
    )
    require_import(store, label)
    turns: dict[int, list[ForeignExchange]] = {row["id"]: [] for row in rows}
    sql = "SELECT * FROM foreign_turn WHERE episode IN (SELECT value FROM json_each(?)) ORDER BY episode, n"
    for row in store.rows(sql, (to_json(list(turns)),)):
        earlier = turns[row["episode"]]
        earlier.append(_exchange(row, earlier))
    return [
        ForeignTrace(
            id=row["id"],
            environment=row["environment"],
            seed=row["seed"],
            base_model=row["base_model"],
            base_hash=row["base_hash"],
            success=None if row["success"] is None else bool(row["success"]),
            total_reward=row["total_reward"],
            turns=tuple(turns[row["id"]]),
            instructions=row["instructions"],
            tools=_tools(row),
        )
        for row in rows
    ]


def imports_with_successes(store: Store) -> dict[str, str]:
    """The label of the latest import that has successes of an environment, by the environment's name."""
    rows = store.rows(
        """
        SELECT f.environment, b.label FROM foreign_episode f JOIN import_batch b ON b.id = f.batch
        LEFT JOIN environment e ON e.name = f.environment
        WHERE coalesce(f.success, f.total_reward >= coalesce(e.threshold, 1.0)) ORDER BY f.id
        """
    )
    return {row["environment"]: row["label"] for row in rows}


def _traces(store: Store, sql: str, parameters: Params, staleness: int) -> Iterator[Trace]:
    """Reads episodes with their turns as the caller asks for them, `AT_A_TIME` at once."""
    behind = {row["id"]: int(row["staleness"]) for row in store.rows(sql, parameters) if row["staleness"] <= staleness}
    ids = list(behind)
    for start in range(0, len(ids), AT_A_TIME):
        for episode in reversed(episodes_by_id(store, ids[start : start + AT_A_TIME])):
            yield Trace(episode=episode, staleness=behind[episode.id])


def _exchange(row: Any, earlier: Sequence[ForeignExchange]) -> ForeignExchange:
    """One turn. If it continues the one before it, the messages and the answer of that one come first."""
    with reading_row(f"imported episode {row['episode']}"):
        before = earlier[-1] if row["continues"] else None
        messages = None if row["messages"] is None else tuple(map(_stored_message, json.loads(row["messages"])))
        if messages is not None and before is not None:
            said = before.answer or {"role": "assistant", "content": before.action}
            messages = (*(before.messages or ()), said, *messages)
        return ForeignExchange(
            messages=messages,
            observation=row["observation"],
            prompt_ids=None if row["prompt_ids"] is None else unpack_ids(row["prompt_ids"]),
            action=row["action"],
            action_ids=None if row["action_ids"] is None else unpack_ids(row["action_ids"]),
            answer=None if row["answer"] is None else _stored_message(json.loads(row["answer"])),
        )


def _stored_message(message: Any) -> JsonObject:
    """A message of the store (`exchange/conversation.py`), if it has that form; `TypeError` or `LookupError` otherwise."""
    texts = [message["role"], message["content"], *(message[key] for key in _TEXTS if key in message)]
    functions = [call["function"] for call in message.get("tool_calls", [])]
    texts += [function["name"] for function in functions]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(function["arguments"], dict) for function in functions):
        raise TypeError("a message of another form")
    return cast(JsonObject, message)


def _tools(row: Any) -> tuple[JsonObject, ...]:
    with reading_row(f"imported episode {row['id']}"):
        tools = () if row["tools"] is None else tuple(json.loads(row["tools"]))
        if not all(isinstance(tool["function"]["name"], str) for tool in tools):
            raise TypeError("a tool of another form")
    return tools
