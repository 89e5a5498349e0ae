"""The documents that this process and a host exchange, as records: written by one side, parsed by the other.

    this process -> host   StartOrder on its command line; then a fork (the worker's socket comes as a descriptor) or EndOrder
    host -> this process   the description of its environment or LoadFailure; then Forked, ForkRefused or the wait status of a worker

The code of an environment can write to the socket of its host while it is imported, so that the host's documents are checked too: one that
does not fit raises `WireDocumentError`. Descriptions are in `description.py`. This module is imported before the limits of a host hold, and
imports no foreign package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from perdure.envs.sandbox.wire import WireDocumentError, count_field, float_field
from perdure.memory.json_value import JsonObject

LOAD_TIMEOUT_S = 120.0
"""How long a host may take to import its environment and to make it once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """The order of a host, on its command line."""

    name: str
    """Of the environment."""
    parent: int
    path: tuple[str, ...]
    """Folders to search for modules last."""
    memory_mib: int
    cpu_s: int
    network: bool
    unconfined: bool
    """Whether it may run where it cannot be confined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailure:
    """Why a host could not load its environment."""

    unknown: bool
    """Whether there is no environment of that name; otherwise its options or its code are wrong."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOrder:
    """To a host: end this worker, if it has not ended by itself after `patience_s`."""

    worker: int
    patience_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """A host has forked a worker; `pid` is its number in the host's namespace."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRefused:
    """A host could not fork a worker."""

    reason: str


def write_start(order: StartOrder) -> str:
    return json.dumps(
        {
            "name": order.name,
            "parent": order.parent,
            "path": order.path,
            "memory_mib": order.memory_mib,
            "cpu_s": order.cpu_s,
            "network": order.network,
            "unconfined": order.unconfined,
        }
    )


def read_start(text: str) -> StartOrder:
    match json.loads(text):
        case {
            "name": str(name),
            "parent": int(parent),
            "path": [*path],
            "memory_mib": int(memory_mib),
            "cpu_s": int(cpu_s),
            "network": bool(network),
            "unconfined": bool(unconfined),
        }:
            folders = tuple(str(folder) for folder in path)
            return StartOrder(
                name=name, parent=parent, path=folders, memory_mib=memory_mib, cpu_s=cpu_s, network=network, unconfined=unconfined
            )
    raise WireDocumentError("it is not a start order")


def write_failure(failure: LoadFailure) -> JsonObject:
    return {"unknown" if failure.unknown else "wrong": failure.reason}


def read_failure(document: JsonObject) -> LoadFailure | None:
    """None if the document is not a failure but a description."""
    for key in ("unknown", "wrong"):
        if key in document:
            return LoadFailure(unknown=key == "unknown", reason=str(document[key]))
    return None


def write_end(order: EndOrder) -> JsonObject:
    return {"end": order.worker, "patience_s": order.patience_s}


def read_end(document: JsonObject) -> EndOrder:
    return EndOrder(worker=count_field(document, "end"), patience_s=float_field(document, "patience_s"))


def write_fork_answer(answer: Forked | ForkRefused) -> JsonObject:
    return {"pid": answer.pid} if isinstance(answer, Forked) else {"refused": answer.reason}


def read_fork_answer(document: JsonObject) -> Forked | ForkRefused:
    if "refused" in document:
        return ForkRefused(reason=str(document["refused"]))
    return Forked(pid=count_field(document, "pid"))


def write_status(status: int) -> JsonObject:
    return {"status": status}


def read_status(document: JsonObject) -> int:
    """The wait status of a worker that was ended."""
    return count_field(document, "status") & 0xFFFF
