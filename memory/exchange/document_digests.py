"""Documents of episodes against the digests in them (`memory/layout/digests.py`): what of an export or archive was changed since.

Each digest can be computed from the document alone: it is over the columns that the rows had in the store. A document of an older Perdure
has none, and one whose store was older than digests has none for its turns: that of the episode covers them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perdure.memory.layout.blobs import pack_ids, pack_logprobs
from perdure.memory.layout.digests import digest_of, end_of_old, turn_digest
from perdure.memory.layout.packed_lists import packed_lists

if TYPE_CHECKING:
    import pyarrow as pa

COVERED = (
    *("id", "environment", "seed", "group", "member", "seat", "purpose", "task", "job", "attempt", "sampler", "temperature", "state"),
    *("turns", "total_reward", "success", "score", "stop_reason", "error", "started_at", "finished_at"),
    *("code", "instructions"),
)
"""The keys of a document that the digest of an episode covers, in the order of its columns; those that it does not have are left out."""

_STEP = re.compile(r"job (\d+) step (\d+)")
_PACKED = {"prompt_ids": pack_ids, "action_ids": pack_ids, "logprobs": pack_logprobs}


def changed_parts(document: Mapping[str, Any]) -> Iterator[str]:
    """The parts of a document, read from JSON or Parquet, that differ from their digests.

    Raises `KeyError`, `TypeError` or `ValueError` if it is no document of an export.
    """
    turns = [{**turn, **{key: pack(turn[key]) for key, pack in _PACKED.items()}} for turn in document["turns"]]
    return _changed({**document, "turns": turns})


def changed_in_table(table: pa.Table) -> Iterator[str]:
    """The parts of documents in an Arrow table that differ, each with the id of its episode. Numbers of lists are not unpacked."""
    if "digest" not in table.column_names:
        return
    turns = table.column("turns").combine_chunks()
    flat = turns.values
    packed = {key: packed_lists(flat.field(key)) for key in _PACKED}
    rest = [name for name in (field.name for field in flat.type) if name not in packed]
    lists = [flat.field(name).to_pylist() for name in rest]
    every = [
        {**dict(zip(rest, values, strict=True)), **{key: blobs[n] for key, blobs in packed.items()}}
        for n, values in enumerate(zip(*lists, strict=True))
    ]
    offsets = turns.offsets.to_pylist()
    for n, document in enumerate(table.drop_columns(["turns"]).to_pylist()):
        document["turns"] = every[offsets[n] : offsets[n + 1]]
        for part in _changed(document):
            yield f"episode {document['id']}" + (f" {part}" if part != "episode" else "")


def _changed(document: Mapping[str, Any]) -> Iterator[str]:
    """Of a document whose lists of numbers are packed."""
    episode, last = document["id"], None
    for turn in document["turns"]:
        prompt = turn["prompt_ids"][4 * turn["shared"] :]
        head = (episode, turn["n"], turn["shared"], prompt, turn["action_ids"], turn["logprobs"])
        tail = (turn["observation"], turn["action"], turn["invalid"], turn["reward"], turn["finish"], *_sampler(turn["sampler"]))
        computed = turn_digest((*head, *tail, turn["made_at"]), last)
        if turn["digest"] is not None and turn["digest"] != f"{computed:08x}":
            yield f"turn {turn['n']}"
        last = computed if turn["digest"] is None else int(turn["digest"], 16)
    values: list[Any] = []
    for key in COVERED:
        if key == "sampler":
            values += _sampler(document[key])
        elif key == "turns":
            values.append(len(document[key]))
        elif key in document:
            values.append(document[key])
    if last is not None and document["turns"][-1]["digest"] is None:
        last = end_of_old(last)
    if document["digest"] != digest_of((*values, last)).hex():
        yield "episode"
    for batch in document["batches"]:
        if batch["digest"] != digest_of([batch["job"], batch["attempt"], batch["n"], episode, batch["on_policy"]]).hex():
            yield f"batch of job {batch['job']} step {batch['n']}"
    for reward in document["rewards"]:
        if reward["digest"] != digest_of([episode, reward["source"], reward["value"], reward["made_at"]]).hex():
            yield f"reward of {reward['source']}"


def _sampler(name: str) -> Sequence[str | int | None]:
    """`version`, `step_job` and `step_n`."""
    if match := _STEP.fullmatch(name):
        return None, int(match[1]), int(match[2])
    return name, None, None
