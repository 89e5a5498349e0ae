"""Jobs that a person queues, and takes back. A daemon runs them, or the command that queued them (`agent/supervision/run_or_follow.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from perdure.agent.changes.known_environments import in_this_home
from perdure.agent.changes.order_checks import check_order, known_profile, learn_order, probe_order
from perdure.agent.changes.target_choice import Say, known_stream, with_targets
from perdure.agent.config_file import LoadedConfig
from perdure.memory import jobs
from perdure.memory.changes import Who, answer_of, check_reason, check_words, perform
from perdure.memory.contracts.orders import GateOrder, OptionValue, Order, PanelOrder
from perdure.memory.contracts.panel_results import Asked
from perdure.memory.json_value import Document
from perdure.memory.store import Store


def queue_learn(
    store: Store,
    loaded: LoadedConfig,
    by: Who,
    learner: str,
    *,
    targets: Sequence[str] = (),
    options: Mapping[str, OptionValue] | None = None,
    gate: bool = True,
    start: str | None = None,
    profile: str | None = None,
    stream: Sequence[str] | None = None,
    say: Say = lambda line: None,
    reason: str | None = None,
    key: str | None = None,
) -> Document:
    """Queue a learning job; gives it as an entry of `perdure job list --json`.

    Without targets the planner chooses among the environments of the `stream`, by default as the last daemon read it; `say` is told why.
    Raises `UnknownError` and `InputError` for what the home lacks or a learner does not read, `RuntimeFailure` if files are gone.
    """
    given = dict(options or {})
    order = learn_order(loaded.config, by, learner, given, gate=gate, start=start, profile=profile)
    asked: Document = {"learner": learner, "targets": list(targets), "options": given, "gate": gate, "start": start, "profile": profile}

    def prepare() -> tuple[Order, list[str]]:
        aims = in_this_home(store, loaded, targets)
        check_order(store, order, aims)
        if aims:
            return order, aims
        return with_targets(store, loaded.config, order, known_stream(store) if stream is None else stream, given, say)

    return _queue(store, by, "learn", asked, prepare, reason, key)


def queue_gate(
    store: Store,
    loaded: LoadedConfig,
    by: Who,
    candidate: str,
    *,
    targets: Sequence[str] = (),
    profile: str | None = None,
    reason: str | None = None,
    key: str | None = None,
) -> Document:
    """Queue a gate of a version, which never moves the serving pointer; gives the job as `queue_learn`, and raises as it does."""
    order = GateOrder(candidate=candidate, profile=known_profile(loaded.config, profile))

    def prepare() -> tuple[Order, list[str]]:
        aims = in_this_home(store, loaded, targets)
        check_order(store, order, aims)
        return order, aims

    asked: Document = {"candidate": candidate, "targets": list(targets), "profile": profile}
    return _queue(store, by, "gate", asked, prepare, reason, key)


def queue_probe(
    store: Store,
    loaded: LoadedConfig,
    by: Who,
    version: str | None = None,
    *,
    targets: Sequence[str] = (),
    episodes: int = 50,
    temperature: float = 0.0,
    samples: int = 1,
    reason: str | None = None,
    key: str | None = None,
) -> Document:
    """Queue probes of a version, the serving one by default, in all environments or in these; gives the job and raises as `queue_learn`."""
    order = probe_order(loaded.config, version, episodes, temperature, samples)

    def prepare() -> tuple[Order, list[str]]:
        aims = in_this_home(store, loaded, targets)
        check_order(store, order, aims)
        return order, aims

    asked: Document = {
        "version": version,
        "targets": list(targets),
        "episodes": episodes,
        "temperature": temperature,
        "samples": samples,
    }
    return _queue(store, by, "probe", asked, prepare, reason, key)


def queue_panel(
    store: Store, by: Who, version: str | None = None, *, asked: Asked = "choice", reason: str | None = None, key: str | None = None
) -> Document:
    """Queue the capability panel for a version, the serving one by default; gives the job and raises as `queue_learn`."""
    order = PanelOrder(version=version, asked=asked)

    def prepare() -> tuple[Order, list[str]]:
        check_order(store, order, [])
        return order, []

    return _queue(store, by, "panel", {"version": version, "scores": asked}, prepare, reason, key)


def cancel_job(store: Store, by: Who, job: int, *, reason: str, key: str | None = None) -> Document:
    """Take a job back that has not ended; gives it as `perdure job cancel --json`. Raises `UnknownError`, `Conflict` if it has ended."""
    check_reason(reason)

    def change() -> tuple[str, Document]:
        return f"job {job}", jobs.as_json(jobs.cancel_job(store, job, reason))

    return perform(store, change, by=by, what="job cancel", arguments={"job": job}, reason=reason, key=key)


def _queue(
    store: Store,
    by: Who,
    what: str,
    asked: Document,
    prepare: Callable[[], tuple[Order, list[str]]],
    reason: str | None,
    key: str | None,
) -> Document:
    """Queue what `prepare` gives. It may take its time, so it is called before the transaction, and not for a key that was used."""
    check_words(by, reason, key)
    earlier: Document | None = answer_of(store, key, what=what, arguments=asked, reason=reason)
    if earlier is not None:
        return earlier
    order, aims = prepare()

    def change() -> tuple[str, Document]:
        number = jobs.add_job(store, uuid4().hex, aims, order)
        return f"job {number}", jobs.as_json(jobs.get_job(store, number))

    return perform(store, change, by=by, what=what, arguments=asked, reason=reason, key=key)
