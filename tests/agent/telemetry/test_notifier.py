"""What a daemon tells: of which happenings, in which words, and what becomes of it if nobody listens."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from tests.agent.changes.conftest import ANNA
from tests.agent.conftest import Call
from tests.agent.stand_ins import Place
from tests.agent.telemetry.listener import code, listening
from tests.results import gate_result

from perdure.agent.changes import version_moves
from perdure.agent.config import Config
from perdure.agent.supervision.disk import DiskLack
from perdure.agent.telemetry.happenings import Happening, news, rejection, seen_now
from perdure.agent.telemetry.notifier import Notifier
from perdure.agent.telemetry.telemetry_settings import NotifySection
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.errors import InputError
from perdure.memory.jobs import add_job, finish_job, get_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import GIVEN_UP, events, record_event
from perdure.memory.store import open_store
from perdure.memory.versions import add_candidate, promote, rollback

SECRET = "s3cret"


def test_moves_what_a_person_rejects_and_what_is_given_up_are_news_once(home: Path) -> None:
    with open_store(home) as store:
        seen = seen_now(store)
        assert news(store, seen) == ([], seen)
        promote(store, "v2", "a person likes it")
        rollback(store, "v1", "and does not any more")
        record_event(store, "death", "actor", "killed: it was ended by SIGKILL")
        (home / "versions" / "v4").mkdir()
        add_candidate(store, None, "v4", "v1", "hash-of-v4", "versions/v4", [], None)
        version_moves.reject(store, ANNA, "v4", reason="rude")
        record_event(store, GIVEN_UP, "learning", "after 5 jobs")
        found, seen = news(store, seen)
        assert [(one.event, one.subject, one.reason) for one in found] == [
            ("promote", "v2", "a person likes it (before: v1)"),
            ("rollback", "v1", "and does not any more (before: v2)"),
            ("reject", "v4", "rude"),
            ("give-up", "learning", "after 5 jobs"),
        ]
        assert len({one.key for one in found}) == 4
        assert news(store, seen) == ([], seen)


def test_a_rejection_is_what_a_gate_says(home: Path) -> None:
    with open_store(home) as store:
        for n, verdict in enumerate(("reject", "inconclusive"), start=1):
            job = add_job(store, f"gate-{n}", [], GateOrder(candidate="v2"))
            leased = lease_job(store, "test", 60.0, BootClock(), job)
            assert leased is not None
            finish_job(store, leased[1], gate_result("reject" if verdict == "reject" else "inconclusive", candidate="v2"), "v2")
        found = [rejection(get_job(store, job)) for job in (1, 2)]
    assert found[0] is not None
    assert (found[0].event, found[0].subject, found[0].reason) == ("reject", "v2", "all held")
    assert found[1] is None


def test_a_payload_is_one_json_document_without_control_characters(tmp_path: Path) -> None:
    reason = "py:a\x1b[31m\n\u202e\ud800 <script>" + "x" * 5000
    happening = Happening(key="move-1", event="promote", subject="v2", reason=reason, at=0.0)
    found = json.loads(happening.payload(tmp_path))
    assert found["event"] == "promote"
    assert found["version"] == "v2"
    assert found["time"] == "1970-01-01T00:00:00+00:00"
    assert found["home"] == str(tmp_path)
    assert found["text"].startswith("perdure: v2 was promoted: py:a\\x1b[31m")
    assert len(found["reason"]) == 2000
    assert not any(ord(character) < 32 or character == "\u202e" for character in found["reason"])


def test_only_what_is_asked_for_is_sent(home: Path) -> None:
    settings = NotifySection(command=("never-run",), on=())
    with open_store(home) as store:
        notifier = Notifier(store, settings)
        promote(store, "v2", "a person likes it")
        notifier.room_changed(DiskLack(), DiskLack(learn="full"))
        notifier.close()
        assert [event for event in events(store) if event.kind == "notify"] == []


@pytest.mark.processes
def test_a_lack_of_room_is_told_when_it_begins_and_a_failure_is_an_event(home: Path) -> None:
    with open_store(home) as store:
        notifier = Notifier(store, NotifySection(command=("no-such-program",)))
        notifier.room_changed(DiskLack(), DiskLack(learn="90 %"))
        notifier.room_changed(DiskLack(learn="90 %"), DiskLack(learn="91 %"))
        notifier.room_changed(DiskLack(learn="91 %"), DiskLack())
        notifier.close()
        found = [event for event in events(store) if event.kind == "notify"]
    assert [(one.subject, one.message) for one in found] == [
        ("command", "disk-low (learning) was not sent after 1 try: no-such-program cannot be run: No such file or directory")
    ]


@pytest.mark.processes
def test_a_daemon_tells_of_a_promotion_by_another_process(place: Place, home: Path) -> None:
    with listening(code(200)) as server:
        place.actor("play(store, pulse)")
        daemon = place.daemon("an_actor", f"[notify]\nwebhook = '{server.address}/{SECRET}'\n")
        place.wait("a daemon that plays", lambda store: any(one.kind == "start" for one in events(store)))
        _add_versions(place.home)
        with open_store(place.home) as store:
            promote(store, "v1", "a person likes it")
        deadline = time.monotonic() + 60
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.05)
        daemon.terminate()
        daemon.wait(30)
    found: dict[str, Any] = json.loads(server.asked[0].body)
    assert (found["event"], found["version"], server.asked[0].path) == ("promote", "v1", f"/{SECRET}")


def _add_versions(home: Path) -> None:
    from perdure.memory.versions import add_candidate, add_initial

    with open_store(home) as store:
        add_initial(store, "tiny", "hash-of-tiny")
        add_candidate(store, None, "v1", "v0", "hash-of-v1", None, [], None)


@pytest.mark.processes
def test_a_run_that_gives_up_tells_so_before_it_ends_and_a_hanging_command_does_not_hold_it(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "tell.py"
    file.write_text(f"import sys, time\nopen({str(tmp_path / 'told')!r}, 'ab').write(sys.stdin.buffer.read())\ntime.sleep(600)\n")
    began_s = time.monotonic()
    ended = place.supervise(
        place.actor("raise ValueError('no good')"),
        supervise={"tries": 1},
        notify={"command": [sys.executable, str(file)], "timeout_s": 300},
    )
    assert ended.code == 3
    assert time.monotonic() - began_s < 120
    found = json.loads((tmp_path / "told").read_bytes())
    assert (found["event"], found["subject"]) == ("give-up", "supervisor")
    assert "the actor is given up" in found["reason"]
    with open_store(place.home) as store:
        assert [(one.subject, one.message) for one in events(store) if one.kind == "notify"] == [
            ("command", "1 not sent before the end of the daemon")
        ]


def test_an_address_may_come_from_a_variable_which_children_do_not_get(home: Path) -> None:
    environment = {"HOOK": f"https://example.org/{SECRET}"}
    settings = NotifySection(webhook=SecretStr("env:HOOK"))
    with open_store(home) as store:
        Notifier(store, settings, environment)
        assert environment == {}
        with pytest.raises(InputError, match="reads the variable HOOK, which holds no address"):
            Notifier(store, settings, environment)
        with pytest.raises(InputError, match="HOOK") as error:
            Notifier(store, settings, {"HOOK": f"ftp://{SECRET}"})
    assert SECRET not in str(error.value)


def test_no_secret_is_shown(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text(f"[notify]\nwebhook = 'https://example.org/{SECRET}'\n")
    for arguments in ((), ("--json",)):
        shown = perdure("config", "show", *arguments)
        assert shown.code == 0
        assert SECRET not in shown.out + shown.err
        assert "(set, and not shown)" in shown.out
    with pytest.raises(ValidationError) as error:
        Config.model_validate({"notify": {"webhook": f"ftp://{SECRET}"}})
    assert SECRET not in str(error.value)
    (tmp_path / "perdure.toml").write_text(f"notify = 'https://{SECRET}'\n")
    shown = perdure("config", "show")
    assert (shown.code, SECRET in shown.err) == (2, False)
    for wrong in (f"'ftp://{SECRET}'", f"'https://{SECRET} x'", f"['https://{SECRET}']", f"{{a = '{SECRET}'}}", f"'env:{SECRET}-'", "7"):
        (tmp_path / "perdure.toml").write_text(f"[notify]\nwebhook = {wrong}\n")
        shown = perdure("config", "show")
        assert shown.code == 2
        assert "notify.webhook" in shown.err
        assert SECRET not in shown.out + shown.err


@pytest.mark.processes
def test_what_cannot_be_sent_from_here_is_found_before_the_run(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("model = 'tiny'\n[notify]\ncommand = ['no-such-program']\n")
    for arguments in (("run",), ("doctor",)):
        shown = perdure(*arguments)
        assert shown.code in (1, 2)
        assert "notify.command names 'no-such-program', which is no program that can be run" in shown.out + shown.err
    assert not (tmp_path / ".perdure").exists()
