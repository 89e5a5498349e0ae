"""Whether the cluster of the settings answers: what `perdure doctor` finds. It is asked in a process of its own, with a limit.

Ray prints what it likes and may wait for minutes, so it never runs in the process of a command. Left out: players (`perdure status`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from perdure.agent.cluster.cluster_packages import require_cluster
from perdure.agent.config_file import LoadedConfig, load_config
from perdure.memory.errors import PerdureError, RuntimeFailure

GRACE_S = 15
"""Beside `cluster.start_timeout_s`, for the start of Python and the end of Ray."""


def ask_cluster(home: Path, loaded: LoadedConfig) -> tuple[str, bool]:
    """The cluster in a few words, or what is wrong and what to do; and whether it can be used. Empty if there is to be none."""
    try:
        return _ask(home, loaded), True
    except PerdureError as error:
        return str(error), False


def _ask(home: Path, loaded: LoadedConfig) -> str:
    cluster = loaded.config.cluster
    require_cluster(cluster)
    if not cluster.address:
        return ""
    if cluster.address == "local":
        return "`perdure run` starts one on this machine: a head and two nodes"
    arguments = [str(home.absolute()), *([str(loaded.path)] if loaded.path else [])]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "perdure.agent.cluster.cluster_check", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=cluster.start_timeout_s + GRACE_S)
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailure(f"the cluster at {cluster.address} has not answered within {cluster.start_timeout_s} s") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found, _, text = said.strip().rpartition("\n")[2].partition(" ")
    if found != "ok":
        raise RuntimeFailure(text or f"the cluster at {cluster.address} could not be asked")
    return text


def main(arguments: list[str]) -> int:
    """Ask, and print 'ok' or 'error' with what was found as the last line."""
    from perdure.agent.cluster.on_ray.ray_runtime import describe, joined_ray

    loaded = load_config(Path(arguments[1]) if arguments[1:] else None)
    try:
        with joined_ray(Path(arguments[0]), loaded.config.cluster) as joined:
            print("ok", describe(joined), flush=True)
    except PerdureError as error:
        print("error", " ".join(str(error).split()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
