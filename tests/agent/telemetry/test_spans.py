"""Spans: what they say, how they belong together, and what becomes of them if no collector listens. The collector is a real HTTP server."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from pydantic import SecretStr
from tests.agent.conftest import Call
from tests.agent.stand_ins import Place, plays
from tests.agent.telemetry.listener import Listener, code, listening
from tests.agent.telemetry.test_json_log import learning

from perdure.agent.telemetry.ended_work import Piece
from perdure.agent.telemetry.spans import QUEUE_SIZE, SpanSender, processor_for, span_id, span_of, traces_address
from perdure.agent.telemetry.telemetry_settings import TelemetrySection
from perdure.memory.processes import events
from perdure.memory.store import open_store

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 15
    while any(thread.name.startswith(("spans", "OtelBatch")) for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread goes on"
        time.sleep(0.05)


def received(server: Listener) -> list[Span]:
    found = []
    for asked in server.asked:
        request = ExportTraceServiceRequest.FromString(asked.body)
        found += [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
    return found


def sent_by(home: Path, endpoint: str) -> None:
    """A sender looks while something happens."""
    sender = SpanSender(home, TelemetrySection(otlp_endpoint=SecretStr(endpoint)), look_s=0.05)
    sender.start()
    time.sleep(0.5)  # its first look
    with open_store(home) as store:
        learning(store)
    sender.close()


def test_episodes_updates_and_jobs_are_spans_that_belong_together(home: Path) -> None:
    with listening(code(200)) as server:
        sent_by(home, f"{server.address}/collector")
    assert {asked.path for asked in server.asked} == {"/collector/v1/traces"}
    spans = received(server)
    assert [span.name for span in spans] == ["episode", "update", "update", "job"]
    episode, first, second, job = spans
    assert {first.trace_id, second.trace_id} == {job.trace_id}
    assert {first.parent_span_id, second.parent_span_id} == {job.span_id}
    assert job.parent_span_id == episode.parent_span_id == b""
    assert episode.trace_id != job.trace_id
    assert len({span.span_id for span in spans}) == 4
    attributes = {one.key: one.value for one in episode.attributes}
    assert attributes["perdure.episode"].int_value == 2
    assert attributes["perdure.version"].string_value == "v1"
    assert attributes["perdure.outcome"].string_value == "completed"
    assert len(attributes["perdure.trace"].string_value) == 32
    assert {one.key: one.value.string_value for one in job.attributes}["perdure.trace"] == job.trace_id.hex()
    assert second.end_time_unix_nano - second.start_time_unix_nano == pytest.approx(2e9, abs=1e6)
    assert job.status.code == 2
    assert "\x1b" not in job.status.message
    assert "\\x1b[31 good" in job.status.message


def test_the_same_work_has_the_same_ids_in_every_process() -> None:
    assert span_id("home", "job", 7) == span_id("home", "job", 7)
    assert len({span_id(key, kind, of) for key in "ab" for kind in ("job", "episode") for of in (1, 2)}) == 8


def test_a_collector_that_fails_is_an_event_without_its_address(home: Path) -> None:
    with listening(code(400)) as server:
        sent_by(home, f"http://{SECRET}:{SECRET}@127.0.0.1:{server.port}/{SECRET}")
    with open_store(home) as store:
        found = [event.message for event in events(store) if event.kind == "telemetry"]
    assert found == ["4 spans could not be sent to telemetry.otlp_endpoint, and are lost: is a collector there?"]


def test_a_redirect_of_the_collector_is_not_followed(home: Path) -> None:
    with listening(code(200)) as other, listening(code(307, Location=f"{other.address}/evil")) as server:
        sent_by(home, server.address)
    assert server.asked
    assert other.asked == []


def test_a_collector_that_hangs_holds_up_nothing_and_the_queue_is_bounded(home: Path) -> None:
    def hang(request: BaseHTTPRequestHandler) -> None:
        server.ended.wait(30)
        code(200)(request)

    piece = Piece(kind="episode", ids={"episode": 1}, began=0.0, ended=1.0, outcome="completed")
    with listening(hang) as server:
        processor = processor_for(server.address, lambda line: None)
        span = span_of(piece, "home", Resource({}))
        began_s = time.monotonic()
        for _ in range(3 * QUEUE_SIZE):
            processor.on_end(span)
        took_s = time.monotonic() - began_s
        server.ended.set()
        processor.shutdown()
    assert took_s < 25
    assert len(received(server)) <= QUEUE_SIZE + 512


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [
        ("http://a:4318", "http://a:4318/v1/traces"),
        ("http://a:4318/", "http://a:4318/v1/traces"),
        ("https://a/x/", "https://a/x/v1/traces"),
        ("https://a/v1/traces?key=1#b", "https://a/v1/traces?key=1"),
    ],
)
def test_an_endpoint_takes_spans_below_v1(endpoint: str, wanted: str) -> None:
    assert traces_address(endpoint) == wanted


@pytest.mark.processes
def test_a_daemon_sends_spans_of_what_ends_while_it_runs(place: Place) -> None:
    with listening(code(200)) as server:
        place.supervise(place.actor("play(store, pulse)"), until=plays, telemetry={"otlp_endpoint": server.address})
        assert server.asked == [], "nothing has ended"


@pytest.mark.processes
def test_without_the_extra_a_run_says_what_to_install(process: Call, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text(f"model = 'tiny'\n[telemetry]\notlp_endpoint = 'http://127.0.0.1:4318/{SECRET}'\n")
    (tmp_path / "opentelemetry").mkdir()  # hides the installed one
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    for command in ("run", "doctor"):
        shown = process(command, prefix=["env", f"PYTHONPATH={tmp_path}:{':'.join(sys.path)}"])
        assert shown.code in (1, 2)
        assert "the extra otel is not installed: `python -m pip install 'perdure[otel]'`" in shown.out + shown.err
        assert SECRET not in shown.out + shown.err
