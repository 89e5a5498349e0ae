"""Spans for OpenTelemetry: one for each episode, job, update and gate, made of what the store says once it has ended.

A thread of the daemon looks at the store and gives spans to the batch processor of the SDK, whose queue is bounded and drops spans when it
is full: play and learning know nothing of it. The ids of a span follow from what it is about, so that the episodes, updates and gates of a
job are children of its span, whichever process wrote them down. Live episodes of one task share a trace, and not that of the job that made
their version, which would never end: the attribute `perdure.trace` ties them to it, as in the logs. Left out: metrics and logs over OTLP,
and what happens while no daemon runs.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from perdure import __version__
from perdure.agent.show.terminal import visible
from perdure.agent.telemetry.ended_work import EndedWork, Piece
from perdure.agent.telemetry.telemetry_settings import TelemetrySection
from perdure.agent.telemetry.trace_ids import Traces, home_key, trace_id
from perdure.memory.errors import PerdureError
from perdure.memory.processes import keep_latest_events, record_event
from perdure.memory.store import Store, open_store

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

LOOK_S = 2.0
QUEUE_SIZE = 4096
BATCH_SIZE = 512
SEND_TIMEOUT_S = 10.0
NOTE_EVERY_S = 600.0
LAST_PATIENCE_S = 5.0
MOST_CHARACTERS = 500
TELEMETRY = "telemetry"
"""The kind of the events that tell of spans which could not be sent."""
EVENTS_KEPT = 50


class SpanSender:
    """The duty of a daemon. Nothing is imported or started unless an endpoint is set."""

    def __init__(self, home: Path, settings: TelemetrySection, look_s: float = LOOK_S) -> None:
        self._home = home
        self._endpoint = settings.otlp_endpoint.get_secret_value()
        self._look_s = look_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def start(self) -> None:
        if self._endpoint:
            self._thread.start()

    def close(self) -> None:
        """Send what has ended, and wait a little for that."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(LAST_PATIENCE_S)

    def _run(self) -> None:
        processor = processor_for(self._endpoint, lambda line: _note(self._home, line))
        store: Store | None = None
        work: EndedWork | None = None
        try:
            done = False
            while not done:
                try:
                    if store is None or work is None:
                        store = store or open_store(self._home)
                        work, traces, key, resource = EndedWork(store), Traces(store), home_key(store), _resource(store)
                    for piece in work.look():
                        processor.on_end(span_of(piece, key, resource, traces.of(piece.ids)))
                except PerdureError:  # the store cannot be read at the moment
                    pass
                done = self._ended.is_set()
                self._ended.wait(self._look_s)
        finally:
            if store is not None:
                store.close()
            processor.shutdown()


def processor_for(endpoint: str, note: Callable[[str], None]) -> SpanProcessor:
    """The SDK's batch processor, which sends to a collector from a thread of its own. `note` hears from time to time what was not sent."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its messages may hold the address
    exporter = OTLPSpanExporter(traces_address(endpoint), timeout=SEND_TIMEOUT_S)
    return BatchSpanProcessor(noting(exporter, note), max_queue_size=QUEUE_SIZE, max_export_batch_size=BATCH_SIZE)


def noting(exporter: SpanExporter, note: Callable[[str], None]) -> SpanExporter:
    """The same exporter; what it could not send is counted, and noted at most every `NOTE_EVERY_S`."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Noting(SpanExporter):
        lost = 0
        noted_s = -NOTE_EVERY_S

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self.lost += len(spans)
                if time.monotonic() - self.noted_s >= NOTE_EVERY_S:
                    note(f"{self.lost} spans could not be sent to telemetry.otlp_endpoint, and are lost: is a collector there?")
                    self.lost, self.noted_s = 0, time.monotonic()
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Noting()


def span_of(piece: Piece, key: str, resource: Resource, belongs: str | None = None) -> ReadableSpan:
    """The span of a piece of work, in the home of this key. `belongs` is the id of all that its version is about (`trace_ids.py`)."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    number = piece.ids[piece.kind]
    job, root = piece.ids.get("job"), ("job", piece.ids["job"]) if "job" in piece.ids else ("task", piece.ids.get("task", number))
    trace = trace_id(key, *root)
    own = f"{job}.{number}" if piece.kind == "update" else number

    def context(kind: str, of: int | str) -> SpanContext:
        return SpanContext(trace, span_id(key, kind, of), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    failed = piece.error is not None or piece.outcome in ("failed", "env_error")
    attributes: dict[str, str | int | float] = {f"perdure.{name}": _plain(value) for name, value in piece.ids.items()}
    attributes |= {f"perdure.{name}": value for name, value in piece.numbers.items()}
    attributes |= {"perdure.trace": belongs} if belongs else {}
    return ReadableSpan(
        name=piece.kind,
        context=context(piece.kind, own),
        parent=None if job is None or piece.kind == "job" else context("job", job),
        resource=resource,
        attributes={**attributes, "perdure.outcome": piece.outcome},
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, str(_plain(piece.error or piece.outcome))) if failed else Status(StatusCode.OK),
        start_time=_nanoseconds(piece.began),
        end_time=_nanoseconds(max(piece.ended, piece.began)),
    )


def span_id(key: str, kind: str, of: int | str) -> int:
    """64 bits that follow from what the span is about."""
    return int.from_bytes(hashlib.sha256(f"span {key} {kind} {of}".encode()).digest()[:8]) or 1


def traces_address(endpoint: str) -> str:
    """Where an endpoint takes spans: as OTEL_EXPORTER_OTLP_ENDPOINT has it, below `/v1/traces`."""
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith("/v1/traces") else f"{path}/v1/traces", fragment=""))


def _resource(store: Store) -> Resource:
    from opentelemetry.sdk.resources import Resource

    instance = hashlib.sha256(f"{home_key(store)} {store.home}".encode()).hexdigest()[:16]
    return Resource.create({"service.name": "perdure", "service.version": __version__, "service.instance.id": instance})


def _plain(value: int | str) -> int | str:
    if isinstance(value, int):
        return value
    shown = visible(value)
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[:MOST_CHARACTERS]}..."


def _nanoseconds(at: float) -> int:
    return max(int(at * 1e9), 0)


def _note(home: Path, line: str) -> None:
    try:
        with open_store(home) as store, store.write():
            record_event(store, TELEMETRY, "spans", line)
            keep_latest_events(store, TELEMETRY, EVENTS_KEPT)
    except PerdureError:  # a full disk takes no events
        return
