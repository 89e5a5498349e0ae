"""Cards of a machine: what the configuration may say of them, what each process sees, and what `perdure doctor` says.

There are none here: a program that answers as nvidia-smi does says which there are.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import Call
from tests.agent.stand_ins import ADD, PATIENCE_S, Place

from perdure.agent.config import Config
from perdure.agent.doctor import examine
from perdure.agent.processes.vllm.cards import require_cards, seen
from perdure.agent.supervision.keepers import StandingKeeper
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import register
from perdure.memory.errors import InputError
from perdure.memory.jobs import add_job
from perdure.memory.store import create_store, open_store

SMI = """#!/bin/sh
case "$1" in
*compute-apps*) echo "GPU-b, PID, 30000 MiB" ;;
*) printf '0, NVIDIA H100, 81559 MiB, GPU-a\\n1, NVIDIA H100, 81559 MiB, GPU-b\\n2, NVIDIA L4, 23034 MiB, GPU-c\\n' ;;
esac
"""


@pytest.fixture
def three_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that lists three cards; this process computes on the second one."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(SMI.replace("PID", str(os.getpid())))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def of(cards: list[int], learner: list[int] | None = None, **settings: Any) -> Config:
    return Config.model_validate({"device": "cuda", "devices": {"engine": cards, "learner": learner or []}, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": {"engine": [0]}}, r"devices.engine names cards, and device = 'cpu' uses none: set device = 'cuda'"),
        ({"devices": {"learner": [0]}}, r"devices.learner names cards, and device = 'cpu' uses none"),
        ({"device": "cuda", "devices": {"engine": [0, 1]}}, r"names 2 cards, and engine = 'transformers' samples on one"),
        ({"device": "cuda", "devices": {"engine": [1, 1]}}, r"it names card 1 twice"),
        ({"device": "cuda", "devices": {"learner": [-1]}}, r"greater than or equal to 0"),
        (
            {"device": "cuda", "engine": "vllm", "devices": {"engine": [0, 1, 2]}, "vllm": {"tensor_parallel": 2}},
            r"vllm.tensor_parallel = 2 does not divide the 3 cards of devices.engine",
        ),
        ({"device": "cuda", "engine": "vllm", "vllm": {"tensor_parallel": 2}}, r"tensor_parallel = 2 needs cards: name them in devices"),
        (
            {"device": "cuda", "engine": "vllm", "devices": {"engine": [0], "learner": [1]}, "vllm": {"sleep": True}},
            r"vllm.sleep = true, but engine and learner have cards of their own: leave it false",
        ),
    ],
)
def test_cards_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate(settings)


def test_cards_become_servers() -> None:
    assert Config().servers == ((),)
    assert of([0, 1, 2], [3], engine="vllm").servers == ((0,), (1,), (2,))
    assert of([4, 5, 6, 7], engine="vllm", vllm={"tensor_parallel": 2}).servers == ((4, 5), (6, 7))


def test_play_and_learning_take_turns_only_if_they_share_a_card_that_is_put_to_sleep() -> None:
    assert not of([0, 1], [2], engine="vllm").takes_turns
    assert of([0, 1], [1], engine="vllm", vllm={"sleep": True}).takes_turns
    assert not of([0], [1]).takes_turns
    assert Config().takes_turns


def test_a_process_sees_its_cards_only_and_those_that_a_scheduler_gave() -> None:
    assert seen((), {"CUDA_VISIBLE_DEVICES": "3"}) == {}
    assert seen((2, 0), {}) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,0"}
    assert seen((1,), {"CUDA_VISIBLE_DEVICES": "4, GPU-abc"})["CUDA_VISIBLE_DEVICES"] == "GPU-abc"


@pytest.mark.processes
def test_a_card_that_is_not_there_is_said_in_one_line(three_cards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    require_cards(of([0, 1], [2], engine="vllm"))
    assert of([0], [3]).devices.learner == (3,), "a configuration may be read on another machine"
    with pytest.raises(InputError, match=r"^devices.learner names card 3, and this machine has 3: number them from 0 to 2$"):
        require_cards(of([0], [3]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with pytest.raises(InputError, match=r"^devices.engine names card 2, and CUDA_VISIBLE_DEVICES=5,6 shows 2: number them from 0 to 1$"):
        require_cards(of([2]))


@pytest.mark.processes
def test_a_run_with_a_card_that_is_not_there_ends_before_it_begins(perdure: Call, tmp_path: Path, three_cards: None) -> None:
    (tmp_path / "perdure.toml").write_text("device = 'cuda'\ndevices.engine = [7]\nstream.environments = ['perdure:add']\n")
    result = perdure("run", "--tasks", "1")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "devices.engine names card 7, and this machine has 3: number them from 0 to 2" in result.err


@pytest.mark.processes
def test_doctor_shows_cards_and_who_uses_them(tmp_path: Path, three_cards: None) -> None:
    config = tmp_path / "perdure.toml"
    config.write_text("device = 'cuda'\nengine = 'vllm'\ndevices.engine = [0, 1]\nstream.environments = ['perdure:add']\n")
    found = {check.name: check.found for check in examine(tmp_path / ".perdure", config)}
    assert found["card 0"] == "NVIDIA H100, 81559 MiB, for sampling (vllm) and learning; nvidia-smi names no process on it"
    name = Path("/proc/self/comm").read_text().strip()
    used = f"used by process {os.getpid()} ({name}) with 30000 MiB"
    assert found["card 1"] == f"NVIDIA H100, 81559 MiB, for sampling (vllm-2); {used}"
    assert found["card 2"] == "NVIDIA L4, 23034 MiB, for nothing; nvidia-smi names no process on it"
    config.write_text("device = 'cuda'\ndevices.engine = [3]\nstream.environments = ['perdure:add']\n")
    assert "devices.engine names card 3" in {check.name: check.found for check in examine(tmp_path / ".perdure", config)}["cards"]


@pytest.mark.processes
def test_actor_and_job_see_the_cards_of_their_own(place: Place, three_cards: None) -> None:
    """Both at once: neither waits for the other's card."""
    see = "(store.home / '{}').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    learner = place.learner(f"{see.format('learns')}; finish_job(store, lease, NOT_GATED, None)")
    create_store(place.home).close()
    with open_store(place.home) as store:
        register(store, ADD)
        add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    seen_by = [place.home / "plays", place.home / "learns"]
    place.supervise(
        place.actor(f"{see.format('plays')}; play(store, pulse)"),
        learner,
        until=lambda store: all(path.exists() for path in seen_by),
        device="cuda",
        devices={"engine": [2], "learner": [0]},
    )
    assert [path.read_text() for path in seen_by] == ["2", "0"]


SPEAKS = """
import json, os, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), file=sys.stderr, flush=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.dumps({"data": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
    def log_message(self, *arguments):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.mark.processes
@pytest.mark.long
def test_each_replica_has_cards_port_files_and_log_of_its_own_and_comes_back_alone(tmp_path: Path, home: Path) -> None:
    """The processes that keep servers are the real ones; the servers themselves compute nothing."""
    from tests.tiny_models import tiny_llama

    from perdure.learners.engines.vllm_client import read_server

    tiny_llama(tmp_path / "model")
    (tmp_path / "speaks.py").write_text(SPEAKS)
    python = tmp_path / "python"
    serve = f'shift 2; exec {sys.executable} {tmp_path}/speaks.py "$@"'
    python.write_text(f'#!/bin/sh\nif [ "$1" = -P ]; then echo vllm 0.26.0; else {serve}; fi\n')
    python.chmod(0o700)
    config = tmp_path / "perdure.toml"
    config.write_text(
        f"model = '{tmp_path / 'model'}'\ndevice = 'cuda'\nengine = 'vllm'\ndevices.engine = [0, 1, 2, 3]\n"
        f"stream.environments = ['perdure:add']\n[vllm]\npython = '{python}'\ntensor_parallel = 2\n"
    )
    arguments = ["--home", str(home), "--config", str(config)]
    with open_store(home) as store:
        keepers = [
            StandingKeeper(store, name, "perdure.agent.processes.vllm.vllm_server", [*arguments, "--replica", str(n)], 60.0, None)
            for n, name in enumerate(("vllm", "vllm-2"))
        ]

        def keep_until(met: Any) -> None:
            deadline = time.monotonic() + 2 * PATIENCE_S
            while not met():
                for keeper in keepers:
                    keeper.tick(wanted=True)
                assert time.monotonic() < deadline, [(home / "logs" / f"{keeper.name}.log").read_text() for keeper in keepers]
                time.sleep(0.05)

        try:
            keep_until(lambda: read_server(home, 0) and read_server(home, 1))
            first, second = read_server(home, 0), read_server(home, 1)
            assert first is not None
            assert second is not None
            assert first.url != second.url
            assert first.key != second.key
            assert "sees 0,1" in (home / "logs" / "vllm.log").read_text()
            assert "sees 2,3" in (home / "logs" / "vllm-2.log").read_text()
            assert keepers[1].watched is not None
            os.kill(keepers[1].watched.child.pid, 9)
            keep_until(lambda: (now := read_server(home, 1)) is not None and now.pid != second.pid)
            assert read_server(home, 0) == first
            assert keepers[0].death == ""
            assert keepers[1].death.startswith("killed: it was ended by SIGKILL")
        finally:
            from perdure.agent.supervision.children import end_children

            end_children([keeper.watched.child for keeper in keepers if keeper.watched is not None], 5.0, hurry=lambda: False)
    assert not list((home / "run").glob("vllm*"))
