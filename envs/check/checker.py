"""`perdure env check`: whether an environment keeps the rules that learning and the gate rely on.

The environment is loaded in a process of its own, and each rule (`rules.py`) runs in a fork of that, all at once: if the environment
hangs, crashes or uses up the memory in one rule, that is one finding, and the others go on. The rules that need a second process or a
model are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perdure.envs.check.rules import RULES, EnvFinding
from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.sandbox.host import Host
from perdure.envs.sandbox.remote import DYING_S
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.envs.sandbox.wire import WireDocumentError, WireError, WireTimeout, list_field
from perdure.envs.sandbox.worker_handle import Worker
from perdure.envs.sandbox.worker_messages import DigestQuestion, LongestQuestion, RuleQuestion, read_digest, read_fault, read_texts
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonValue

ELSEWHERE = "is-the-same-elsewhere"
FITS = "fits-the-model"
RULE_S = 40.0
"""Rules that run at once are ended after this time; each stops by itself much earlier, unless the environment hangs. It is a little longer
than the default time limit of one call: if the environment can be interrupted, the rule names the call that hung."""
CHECK_S = 80.0
"""The time limit of the whole check after loading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long a conversation is for a model."""

    tokens: Callable[[Sequence[str]], int]
    limit: int
    exact: bool
    """False if the model is not on this machine, so that four characters are counted as one token."""


class CheckTime:
    """The time limits of the whole check and of each rule."""

    def __init__(self, rule_s: float) -> None:
        self._rule_s = rule_s
        self._until_s = time.monotonic() + CHECK_S

    def left_s(self, since_s: float) -> float:
        """How much longer a rule may take that began at this moment."""
        return max(0.0, min(since_s + self._rule_s, self._until_s) - time.monotonic())


def check(name: str, sandbox: Sandbox, length: Length, rule_s: float = RULE_S) -> tuple[Environment, list[EnvFinding]]:
    """The environment, and all findings about it, errors first. An environment without errors may be learned from.

    Raises `UnknownError` and `InputError` if it cannot be loaded.
    """
    environment, host = start_sandboxed(name, sandbox)
    limits = CheckTime(rule_s)
    try:
        findings = _judge(host, ["runs"], limits)
        if not any(finding.level == "error" for finding in findings):
            findings += _judge(host, [rule for rule in RULES if rule != "runs"], limits)
            findings += _is_the_same_elsewhere(name, sandbox, host, limits)
            findings += _fits_the_model(host, environment, length, limits)
    finally:
        host.close()
    return environment, sorted(findings, key=lambda finding: finding.level)


def _judge(host: Host, rules: Sequence[str], limits: CheckTime) -> list[EnvFinding]:
    """The findings of these rules, each in a process of its own."""
    since_s = time.monotonic()
    asked: list[tuple[str, Worker | None]] = []
    for rule in rules:
        try:
            worker = host.take_worker()
            worker.ask(RuleQuestion(rule=rule))
        except (EnvironmentFault, WireError):
            worker = None
        asked.append((rule, worker))
    return [finding for rule, worker in asked for finding in _findings(host, rule, worker, limits.left_s(since_s))]


def _findings(host: Host, rule: str, worker: Worker | None, timeout_s: float) -> list[EnvFinding]:
    if worker is None:
        return [EnvFinding(level="error", rule=rule, message="its process died")]
    try:
        answer = worker.answer(timeout_s)
        if (fault := read_fault(answer)) is not None:
            return [EnvFinding(level="error", rule=rule, message=fault)]
        return [_read_finding(finding) for finding in list_field(answer, "findings")]
    except WireTimeout:
        host.end(worker)
        return [EnvFinding(level="error", rule=rule, message="it did not end in time, and its process had to be killed")]
    except WireError:
        return [EnvFinding(level="error", rule=rule, message=host.end(worker, DYING_S))]


def _read_finding(finding: JsonValue) -> EnvFinding:
    match finding:
        case {"level": "error" | "warning" as level, "rule": str(rule), "message": str(message)}:
            return EnvFinding(level=level, rule=rule, message=message)
    raise WireDocumentError("it is not a finding")


def _is_the_same_elsewhere(name: str, sandbox: Sandbox, host: Host, limits: CheckTime) -> list[EnvFinding]:
    """Plays in a second process whose hashes of strings differ (an iteration over a set shows there); then in one with the same hashes."""
    try:
        here = _digest(host, limits)
        for hash_seed in (1, 0):
            _, other = start_sandboxed(name, sandbox, hash_seed)
            try:
                differs = _digest(other, limits) != here
            finally:
                other.close()
            if not differs:
                break
    except WireTimeout:
        return [EnvFinding(level="warning", rule=ELSEWHERE, message="it is so slow that there was no time to play it in another process")]
    except (EnvironmentFault, InputError, WireError, OSError) as error:
        return [EnvFinding(level="error", rule=ELSEWHERE, message=f"it fails in another process: {error}")]
    if differs:
        return [EnvFinding(level="error", rule=ELSEWHERE, message="the same seeds gave different episodes in another process")]
    if hash_seed == 0:
        message = (
            "it depends on the hashes of strings (does it iterate over a set?): the sandbox fixes them, so do not name it in "
            "[sandbox] trusted"
        )
        return [EnvFinding(level="warning", rule=ELSEWHERE, message=message)]
    return []


def _digest(host: Host, limits: CheckTime) -> str:
    """The hash of a few episodes that are played there. Raises `EnvironmentFault` and `WireError`."""
    since_s = time.monotonic()
    worker = host.take_worker()
    worker.ask(DigestQuestion())
    answer = worker.answer(limits.left_s(since_s))
    if (fault := read_fault(answer)) is not None:
        raise EnvironmentFault(fault)
    return read_digest(answer)


def _fits_the_model(host: Host, environment: Environment, length: Length, limits: CheckTime) -> list[EnvFinding]:
    """Whether whole episodes fit into what the model can read."""
    since_s = time.monotonic()
    try:
        worker = host.take_worker()
        worker.ask(LongestQuestion())
        texts = read_texts(worker.answer(limits.left_s(since_s)))
    except (EnvironmentFault, WireError):
        return []  # other rules report what fails
    tokens = length.tokens(texts) + environment.max_tokens
    if tokens <= length.limit / 2:
        return []
    about = "" if length.exact else "about "
    message = f"its longest episode has {about}{tokens} tokens; the model can read {length.limit}"
    return [EnvFinding(level="error" if tokens > length.limit else "warning", rule=FITS, message=message)]
