"""Errors of Ray in one line, with what to do. They come with tracebacks of several processes, and with advice that does not fit here."""

from __future__ import annotations

import re

from perdure.agent.cluster.node_versions import versions_here
from perdure.agent.processes.exit_codes import one_line
from perdure.memory.errors import InputError, PerdureError, Unavailable

STORE_FULL = (
    "the object store of the cluster is full: let what fills it end, or start its nodes with more (ray start --object-store-memory BYTES)"
)
DEEPEST = 5
"""Causes of causes that are looked at."""
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


def why_not_joined(error: BaseException, address: str, own: bool = False) -> PerdureError:
    """The error for a cluster that could not be joined. `own`: we started it."""
    if own and (isinstance(error, Unavailable) or not isinstance(error, PerdureError)):
        return Unavailable(
            f"the local cluster has not begun within cluster.start_timeout_s ({one_line(error)}): this machine is busy; see logs/ray.log"
        )
    if isinstance(error, PerdureError):
        return error
    chain = _chain(error)
    names, text = _names(error), " ".join(map(str, chain))
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
    if "No node info found" in text or "possible node ids" in text:
        return Unavailable(f"this machine is no node of the cluster at {address}: `ray start --address={address}` here first")
    if names & {"ConnectionError", "RpcError", "TimeoutError"} or "GCS" in text:
        return Unavailable(
            f"what listens at {address} does not answer as the head of a Ray cluster: see cluster.address, or start it there"
        )
    return Unavailable(f"the cluster at {address} cannot be joined: {one_line(error)}")


def _names(error: BaseException) -> set[str]:
    """The names of the kinds of an error and of its causes; Ray's are known by name, as Ray need not be there."""
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _chain(error: BaseException) -> list[BaseException]:
    """An error and its causes; those that came from an actor are in a field of Ray's."""
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and len(found) < DEEPEST:
        found.append(seen)
        inner = getattr(seen, "cause", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return found
