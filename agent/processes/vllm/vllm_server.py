"""The process that runs a vLLM server: `python -m perdure.agent.processes.vllm.vllm_server --home DIR [--config FILE] [--replica N]`.

It starts vLLM's own OpenAI-compatible server on this machine's loopback with a key, writes its address to `run/vllm.json`, and asks it for
one token from time to time: a server that gives none hangs. It ends when it was asked to, when its supervisor is gone, and when the server
has died or hangs; then nothing of the server is left. The supervisor starts it again (`agent/supervision/keepers.py`); requests are made
by `learners/engines/vllm_engine.py`. With several cards there is one such process for each replica, counted from 0, with cards, port, key,
files and log of its own. Left out: servers on other machines, fixed ports.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from perdure.agent.config import Config, VllmSection
from perdure.agent.config_file import load_config
from perdure.agent.home import cache_dir
from perdure.agent.processes.child import Stop, child_parser, run_child, signalled_if_parent_dies
from perdure.agent.processes.pulse import BEAT_S, Pulse
from perdure.agent.processes.vllm.cards import seen
from perdure.agent.processes.vllm.installed_vllm import find_vllm
from perdure.agent.processes.vllm.vllm_command import command, variables
from perdure.agent.telemetry.json_log import JsonStream, plain_line
from perdure.learners.engines.vllm_client import (
    Client,
    Server,
    ServerGone,
    ServerHangs,
    base_name,
    read_server,
    restart_file,
    server_file,
    server_name,
    write_server,
)
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.memory.errors import RuntimeFailure
from perdure.memory.store import open_store

POLL_S = 0.25
GRACE_S = 4.0
"""How long the server has to end by itself; this process has a little longer."""
LOG_BYTES = 2**16


def run_server(home: Path, config: Config, stop: Callable[[], bool], check_s: float = BEAT_S, replica: int = 0) -> None:
    """Start a server, and look at it every `check_s` until `stop()` is true. Raises `RuntimeFailure` if the server dies or hangs."""
    settings = config.vllm
    end_old_server(home, replica)
    with open_store(home) as store:
        pulse = Pulse(store, server_name(replica))
        pulse.say("starting", f"looking for the model {config.model}")
        vllm = find_vllm(settings)
        files = resolve_model(config.model, cache_dir(), lambda line: pulse.say("starting", line), home)
        server = Server(url=f"http://127.0.0.1:{_free_port()}", key=secrets.token_urlsafe(32), pid=os.getpid())
        client = Client(server)
        cards = config.servers[replica]
        on = f" on card{'s' if len(cards) > 1 else ''} {', '.join(map(str, cards))}" if cards else ""
        with _started(settings, files, server, seen(cards, os.environ)) as process:
            started_s = time.monotonic()
            while not _is_healthy(client):
                pulse.say("starting", f"{vllm} loads {files.name}{on}")
                if time.monotonic() - started_s > settings.start_timeout_s:
                    raise RuntimeFailure(
                        f"vLLM did not answer within vllm.start_timeout_s = {settings.start_timeout_s}; {_trouble(home, replica)}"
                    )
                if not _goes_on(process, stop, POLL_S, home, replica):
                    return
            write_server(home, server, replica)
            while _goes_on(process, stop, check_s, home, replica):
                _require_token(client, base_name(files), settings)
                pulse.say("serving", f"{files.name} with {vllm}{on}, at {server.url}")


def end_old_server(home: Path, replica: int = 0) -> None:
    """End what is left of the last server, which holds memory, and delete its address.

    Something is left if the process that ran the server was killed together with its supervisor: vLLM's engine does not end with it. All
    of the server is in one process group, whose number is in the address file.
    """
    old = read_server(home, replica)
    for entry in Path("/proc").glob("[0-9]*") if old is not None and sys.platform == "linux" else ():
        with suppress(OSError, ValueError, IndexError):
            group = int((entry / "stat").read_text().rpartition(")")[2].split()[2])
            if (
                old is not None
                and group == old.pid != os.getpgrp()
                and re.search(rb"VLLM::|vllm\.entrypoints", (entry / "cmdline").read_bytes())
            ):
                os.kill(int(entry.name), signal.SIGKILL)
    for left in (server_file(home, replica), restart_file(home, replica)):
        left.unlink(missing_ok=True)


def _is_healthy(client: Client) -> bool:
    with suppress(ServerGone, ServerHangs):
        return client.get("/health").status == 200
    return False


def _goes_on(process: subprocess.Popen[bytes], stop: Callable[[], bool], wait_s: float, home: Path, replica: int) -> bool:
    """Wait a little; False once `stop()` is true. Raises `RuntimeFailure` if the server has died or another one is asked for."""
    until = time.monotonic() + wait_s
    while not stop():
        code = process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise RuntimeFailure(f"the vLLM server {how}; {_trouble(home, replica)}")
        doubted = restart_file(home, replica)
        if doubted.is_file() and doubted.read_text() == str(os.getpid()):
            raise RuntimeFailure("the vLLM server gives way to another one: an answer was not finite, and its cache may hold more of that")
        if time.monotonic() >= until:
            return True
        time.sleep(POLL_S)
    return False


def _require_token(client: Client, model: str, settings: VllmSection) -> None:
    """Ask for one token, which the engine has to compute; one that hangs answers everything else. A sleeping server is not asked."""
    with suppress(ServerGone):  # then it is dying, which shows in its process
        if settings.sleep and client.get("/is_sleeping").data == {"is_sleeping": True}:
            return
        try:
            answer = client.post("/v1/completions", {"model": model, "prompt": [0], "max_tokens": 1}, settings.answer_timeout_s)
            if answer.status >= 500:
                raise RuntimeFailure(f"the vLLM server fails (status {answer.status}): {answer.message}")
        except ServerHangs as error:
            raise RuntimeFailure(f"the vLLM server hangs: {error} for one token (vllm.answer_timeout_s)") from error


@contextmanager
def _started(settings: VllmSection, files: ModelFiles, server: Server, cards: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process while the block lasts, in the process group of this one."""
    port = int(server.url.rpartition(":")[2])
    as_json = isinstance(sys.stderr, JsonStream)
    process = subprocess.Popen(
        command(settings, files, port),
        stdin=subprocess.DEVNULL,
        env={**variables(settings, server.key), **cards},
        preexec_fn=partial(signalled_if_parent_dies, signal.SIGKILL),
        stdout=subprocess.PIPE if as_json else None,
        stderr=subprocess.STDOUT if as_json else None,
    )
    if process.stdout is not None:
        threading.Thread(target=_print_lines, args=(process.stdout,), name="the log of vLLM", daemon=True).start()
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(GRACE_S)


def _print_lines(output: IO[bytes]) -> None:
    """Print what another program writes, so that it comes into the log in our form."""
    with output:
        for line in output:
            print(line.decode("utf-8", "replace"), end="", file=sys.stderr)


def _free_port() -> int:
    """A free port. If another program takes it meanwhile, the server ends and is started again with another port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _trouble(home: Path, replica: int) -> str:
    """The last line of the log that names an error: what vLLM prints after it does not help."""
    log = home / "logs" / f"{server_name(replica)}.log"
    lines = log.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace").splitlines() if log.is_file() else []
    lines = [part for line in lines for part in plain_line(line).splitlines()]
    errors = [line for line in lines if re.search(r"\b[A-Za-z]*Error: ", line) and "See root cause" not in line]
    line = errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
    return f"its log says: {' '.join(line.split())[:300]}"


def serve(home: Path, config: Config, stop: Stop, replica: int = 0) -> None:
    """Run a server until this process is asked to end, then delete its address.

    After an error the address stays, so that the next start ends what is left of the server (`end_old_server`).
    """
    try:
        with stop.at_once():
            run_server(home, config, stop, replica=replica)
    except SystemExit:
        pass
    server_file(home, replica).unlink(missing_ok=True)


def main() -> int:
    parser = child_parser("perdure.agent.processes.vllm.vllm_server", __doc__)
    parser.add_argument("--model", default=None, help="in place of the configured one")
    parser.add_argument("--replica", type=int, default=0, help="which of several servers it is, from 0")
    given = parser.parse_args()

    def run(stop: Stop) -> None:
        config = load_config(given.config).config
        serve(given.home, config.model_copy(update={"model": given.model}) if given.model else config, stop, given.replica)

    return run_child(run)


if __name__ == "__main__":
    raise SystemExit(main())
