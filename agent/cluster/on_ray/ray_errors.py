"""Errors of Ray in one line, with what to do. They come with tracebacks of several processes, and with advice that does not fit here."""

from __future__ import annotations

import re

from perdure.agent.cluster.versions import versions_here
from perdure.agent.processes.exit_codes import one_line
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable

STORE_FULL = (
    "the object store of the cluster is full: let what fills it end, or start its nodes with more (ray start --object-store-memory BYTES)"
)
_VERSIONS = re.compile(r"Ray: (?P<ray>\S+)\s+Python: (?P<python>\S+)")
_MISSING = re.compile(r"(?:ModuleNotFoundError|ImportError|AttributeError): (?P<what>[^\n]+)")


def in_one_line(error: BaseException) -> str:
    """What an error of a piece's actor means."""
    if isinstance(error, PerdureError):
        return one_line(error)
    names, text = _names(error), str(error)
    if "ObjectStoreFullError" in names or "ObjectStoreFullError" in text or "OutOfDiskError" in names:
        return STORE_FULL
    if "OutOfMemoryError" in names:
        return "its node had no memory left, and Ray ended it: give players more room (cluster.player_memory_gib), or fewer to a node"
    missing = _MISSING.search(text)
    if missing is not None and "perdure" in text:
        return f"its node has no Perdure {versions_here()['perdure']} ({missing['what'].strip()}): install it there"
    if names & {"ActorDiedError", "RayActorError", "WorkerCrashedError", "NodeDiedError"}:
        return "its process on the node died" if "node" not in text.lower() or "killed" in text.lower() else "its node died"
    return one_line(error)


def is_of_node(error: BaseException) -> bool:
    """Whether a piece ended since its process or its node died, not by its own fault."""
    text = str(error)
    died = bool(_names(error) & {"ActorDiedError", "RayActorError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError"})
    return died and not ("perdure" in text and _MISSING.search(text))


def is_passing(error: BaseException) -> bool:
    """Whether the node cannot be reached just now, and nobody knows yet if it is dead."""
    return bool(_names(error) & {"ActorUnavailableError", "GetTimeoutError"})


def why_not_joined(error: BaseException, address: str) -> PerdureError:
    """The error for a cluster that could not be joined."""
    names, text = _names(error), str(error)
    if isinstance(error, PerdureError):
        return error
    versions = [match.groupdict() for match in _VERSIONS.finditer(text)]
    if len(versions) == 2:
        there, here = versions
        for key, name in (("ray", "Ray"), ("python", "Python")):
            if there[key] != here[key]:
                return InputError(
                    f"the cluster at {address} has {name} {there[key]}, and here is {here[key]}: install the same on all nodes"
                )
    if "AuthenticationError" in names or "nauthenticated" in text or "AuthenticationError" in text:
        return InputError(
            f"the cluster at {address} has another token: give all nodes the same one (RAY_AUTH_TOKEN_PATH, cluster.token_file)"
        )
    if names & {"ConnectionError", "RpcError", "TimeoutError"} or "GCS" in text:
        return Unavailable(
            f"what listens at {address} does not answer as the head of a Ray cluster: see cluster.address, or start it there"
        )
    return RuntimeFailure(f"the cluster at {address} cannot be joined: {one_line(error)}")


def _names(error: BaseException) -> set[str]:
    """The names of the kinds of an error and of its causes; Ray's are known by name, as Ray need not be there."""
    found: set[str] = set()
    seen: BaseException | None = error
    for _ in range(4):
        if seen is None:
            break
        found |= {kind.__name__ for kind in type(seen).__mro__}
        seen = getattr(seen, "cause", None) or seen.__cause__
    return found
