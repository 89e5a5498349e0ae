"""`perdure env check`: whether an environment keeps the rules that learning and the gate rely on.

The environment is loaded in a process of its own, and each rule (`rules.py`) runs in a fork of that, all at once: a rule in which
the environment hangs, crashes or eats all memory is one finding, and the others go on. What needs another process, or a model, stands here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perdure.envs.check.rules import RULES, Finding
from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.sandbox.host import Host, Sandbox, started
from perdure.envs.sandbox.remote import DYING_S, Worker
from perdure.memory.errors import InputError

ELSEWHERE = "is-the-same-elsewhere"
FITS = "fits-the-model"
RULE_S = 40.0
"""Rules that run at once and have not ended by then are ended; each stops by itself much earlier, unless the environment hangs. A little
more than one call may take by default: where the environment can be interrupted, the rule says which call hung."""
CHECK_S = 80.0
"""The same for all that comes after loading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How a model counts a conversation."""

    tokens: Callable[[Sequence[str]], int]
    limit: int
    exact: bool
    """False where the model is not on this machine, and a token is taken for four characters."""


class Time:
    """How long what is checked next may take."""

    def __init__(self, rule_s: float) -> None:
        self.rule_s = rule_s
        self._until = time.monotonic() + CHECK_S

    def left(self, since: float) -> float:
        """Seconds of a rule that began at this moment."""
        return max(0.0, min(since + self.rule_s, self._until) - time.monotonic())


def check(name: str, sandbox: Sandbox, length: Length, rule_s: float = RULE_S) -> tuple[Environment, list[Finding]]:
    """The environment, and all findings about it, errors first. One without errors may be learned from.

    Raises `UnknownError` and `InputError` where it cannot even be loaded.
    """
    environment, host = started(name, sandbox)
    time_ = Time(rule_s)
    try:
        findings = _judged(host, ["runs"], time_)
        if not any(finding.level == "error" for finding in findings):
            findings += _judged(host, [rule for rule in RULES if rule != "runs"], time_)
            findings += _is_the_same_elsewhere(name, sandbox, host, time_)
            findings += _fits_the_model(host, environment, length, time_)
    finally:
        host.close()
    return environment, sorted(findings, key=lambda finding: finding.level)


def _judged(host: Host, rules: Sequence[str], time_: Time) -> list[Finding]:
    """What these rules find, each in a process of its own."""
    since = time.monotonic()
    asked: list[tuple[str, Worker | None]] = []
    for rule in rules:
        try:
            worker = host.worker()
            worker.ask({"rule": rule})
        except (EnvironmentFault, OSError):
            worker = None
        asked.append((rule, worker))
    return [finding for rule, worker in asked for finding in _findings(host, rule, worker, time_.left(since))]


def _findings(host: Host, rule: str, worker: Worker | None, timeout_s: float) -> list[Finding]:
    if worker is None:
        return [Finding(level="error", rule=rule, message="its process died")]
    try:
        found = worker.answer(timeout_s)
        if "fault" in found:
            return [Finding(level="error", rule=rule, message=str(found["fault"]))]
        return [Finding(**finding) for finding in found["findings"]]
    except TimeoutError:
        host.end(worker)
        return [Finding(level="error", rule=rule, message="it did not come to an end in time, and its process had to be killed")]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return [Finding(level="error", rule=rule, message=host.end(worker, DYING_S))]


def _is_the_same_elsewhere(name: str, sandbox: Sandbox, host: Host, time_: Time) -> list[Finding]:
    """In another process, whose hashes of strings differ (an iteration over a set shows there); else in one where they are the same."""
    try:
        here = _digest(host, time_)
        for hash_seed in (1, 0):
            _, other = started(name, sandbox, hash_seed)
            try:
                differs = _digest(other, time_) != here
            finally:
                other.close()
            if not differs:
                break
    except TimeoutError:
        return [Finding(level="warning", rule=ELSEWHERE, message="it is so slow that there was no time to play it in another process")]
    except (EnvironmentFault, InputError, OSError, EOFError, ValueError, KeyError) as error:
        return [Finding(level="error", rule=ELSEWHERE, message=f"it fails in another process: {error or 'it died'}")]
    if differs:
        return [Finding(level="error", rule=ELSEWHERE, message="the same seeds went differently in another process")]
    if hash_seed == 0:
        message = "it depends on the hashes of strings (does it iterate over a set?): the sandbox fixes them, so do not name it as trusted"
        return [Finding(level="warning", rule=ELSEWHERE, message=message)]
    return []


def _digest(host: Host, time_: Time) -> str:
    """What a few episodes of some seeds come to there."""
    since = time.monotonic()
    worker = host.worker()
    worker.ask({"digest": True})
    found = worker.answer(time_.left(since))
    if "fault" in found:
        raise EnvironmentFault(str(found["fault"]))
    return str(found["digest"])


def _fits_the_model(host: Host, environment: Environment, length: Length, time_: Time) -> list[Finding]:
    """Whether whole episodes fit into what the model can read."""
    since = time.monotonic()
    try:
        worker = host.worker()
        worker.ask({"longest": True})
        texts = worker.answer(time_.left(since))["longest"]
    except (EnvironmentFault, OSError, EOFError, ValueError, KeyError):
        return []  # other rules tell what fails
    tokens = length.tokens(texts) + environment.max_tokens
    if tokens <= length.limit / 2:
        return []
    about = "" if length.exact else "about "
    message = f"its longest episode has {about}{tokens} tokens, of {length.limit} that the model can read"
    return [Finding(level="error" if tokens > length.limit else "warning", rule=FITS, message=message)]
