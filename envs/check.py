"""`perdure env check`: whether an environment keeps the rules that learning and the gate rely on.

The environment is loaded in a process of its own, and each rule (`rules.py`) runs in a fork of that, all at once: a rule in which
the environment hangs, crashes or eats all memory is one finding, and the others go on. What needs another process, or a model, stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.remote import DYING_S, Worker
from perdure.envs.rules import RULES, Finding
from perdure.envs.sandbox import Host, Sandbox, started
from perdure.memory.errors import InputError

ELSEWHERE = "is-the-same-elsewhere"
FITS = "fits-the-model"
RULE_S = 120.0
"""A rule that takes longer is ended; each stops by itself much earlier unless the environment hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How a model counts a conversation."""

    tokens: Callable[[Sequence[str]], int]
    limit: int
    exact: bool
    """False where the model is not on this machine, and a token is taken for four characters."""


def check(name: str, sandbox: Sandbox, length: Length) -> tuple[Environment, list[Finding]]:
    """The environment, and all findings about it, errors first. One without errors may be learned from.

    Raises `UnknownError` and `InputError` where it cannot even be loaded.
    """
    environment, host = started(name, sandbox)
    try:
        findings = _judged(host, ["runs"])
        if not any(finding.level == "error" for finding in findings):
            findings += _judged(host, [rule for rule in RULES if rule != "runs"])
            findings += _is_the_same_elsewhere(name, sandbox, host)
            findings += _fits_the_model(host, environment, length)
    finally:
        host.close()
    return environment, sorted(findings, key=lambda finding: finding.level)


def _judged(host: Host, rules: Sequence[str]) -> list[Finding]:
    """What these rules find, each in a process of its own."""
    asked: list[tuple[str, Worker | None]] = []
    for rule in rules:
        try:
            worker = host.worker()
            worker.ask({"rule": rule})
        except (EnvironmentFault, OSError):
            worker = None
        asked.append((rule, worker))
    return [finding for rule, worker in asked for finding in _findings(host, rule, worker)]


def _findings(host: Host, rule: str, worker: Worker | None) -> list[Finding]:
    if worker is None:
        return [Finding(level="error", rule=rule, message="its process died")]
    try:
        found = worker.answer(RULE_S)
        if "fault" in found:
            return [Finding(level="error", rule=rule, message=str(found["fault"]))]
        return [Finding(**finding) for finding in found["findings"]]
    except TimeoutError:
        return [Finding(level="error", rule=rule, message=f"it took longer than {RULE_S:g} s, and its process had to be killed")]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return [Finding(level="error", rule=rule, message=host.end(worker, DYING_S))]


def _is_the_same_elsewhere(name: str, sandbox: Sandbox, host: Host) -> list[Finding]:
    """In another process, whose hashes of strings differ (an iteration over a set shows there); else in one where they are the same."""
    try:
        here = _digest(host)
        for hash_seed in (1, 0):
            _, other = started(name, sandbox, hash_seed)
            try:
                differs = _digest(other) != here
            finally:
                other.close()
            if not differs:
                break
    except (EnvironmentFault, InputError, OSError, EOFError, ValueError, KeyError) as error:
        return [Finding(level="error", rule=ELSEWHERE, message=f"it fails in another process: {error or 'it died'}")]
    if differs:
        return [Finding(level="error", rule=ELSEWHERE, message="the same seeds went differently in another process")]
    if hash_seed == 0:
        message = "it depends on the hashes of strings (does it iterate over a set?): the sandbox fixes them, so do not name it as trusted"
        return [Finding(level="warning", rule=ELSEWHERE, message=message)]
    return []


def _digest(host: Host) -> str:
    """What a few episodes of some seeds come to there."""
    worker = host.worker()
    worker.ask({"digest": True})
    found = worker.answer(RULE_S)
    if "fault" in found:
        raise EnvironmentFault(str(found["fault"]))
    return str(found["digest"])


def _fits_the_model(host: Host, environment: Environment, length: Length) -> list[Finding]:
    """Whether whole episodes fit into what the model can read."""
    try:
        worker = host.worker()
        worker.ask({"longest": True})
        texts = worker.answer(RULE_S)["longest"]
    except (EnvironmentFault, OSError, EOFError, ValueError, KeyError):
        return []  # other rules tell what fails
    tokens = length.tokens(texts) + environment.max_tokens
    if tokens <= length.limit / 2:
        return []
    about = "" if length.exact else "about "
    message = f"its longest episode has {about}{tokens} tokens, of {length.limit} that the model can read"
    return [Finding(level="error" if tokens > length.limit else "warning", rule=FITS, message=message)]
