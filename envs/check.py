"""`perdure env check`: whether an environment keeps the rules that learning and the gate rely on.

The environment is loaded in two processes of its own, and each rule (`rules.py`) runs in a fork of the first, all at once: a rule in which
the environment hangs, crashes or eats all memory is one finding, and the others go on. What needs both processes, or a model, stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.rules import RULES, Finding
from perdure.envs.sandbox import DYING_S, Host, Sandbox, Worker, started

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
    _, other = started(name, sandbox)
    try:
        findings = _judged(host, ["runs"])
        if not any(finding.level == "error" for finding in findings):
            findings += _judged(host, [rule for rule in RULES if rule != "runs"])
            findings += _is_the_same_elsewhere(host, other)
            findings += _fits_the_model(host, environment, length)
    finally:
        host.close()
        other.close()
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
    except (OSError, EOFError, ValueError, KeyError):
        return [Finding(level="error", rule=rule, message=host.end(worker, DYING_S))]


def _is_the_same_elsewhere(host: Host, other: Host) -> list[Finding]:
    """In another process, whose hashes of strings differ (an iteration over a set shows there)."""
    digests = []
    for one in (host, other):
        try:
            worker = one.worker()
            worker.ask({"digest": True})
            found = worker.answer(RULE_S)
        except (EnvironmentFault, OSError, EOFError, ValueError) as error:
            return [Finding(level="error", rule=ELSEWHERE, message=f"it fails in another process: {error or 'it died'}")]
        if "fault" in found:
            return [Finding(level="error", rule=ELSEWHERE, message=f"it fails in another process: {found['fault']}")]
        digests.append(found["digest"])
    if digests[0] != digests[1]:
        message = "the same seeds went differently in another process: does it iterate over a set?"
        return [Finding(level="error", rule=ELSEWHERE, message=message)]
    return []


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
