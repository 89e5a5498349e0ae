"""`perdure env check`: whether an environment keeps the rules that learning and the gate rely on.

The environment is loaded in a process of its own, and each rule (`rules.py`) runs in a fork of that, all at once, or one by one if its
episodes are costly: if the environment hangs, crashes or uses up the memory in one rule, that is one finding, and the others go on. A rule
that was not finished in time is a warning: nothing is known of it. The rules that need a second process or a model are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from perdure.envs.check.rules import GIVEN, RULES, EnvFinding
from perdure.envs.check.sample_episodes import difference
from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.sandbox.host import Host
from perdure.envs.sandbox.remote import DYING_S
from perdure.envs.sandbox.sandbox_hints import with_hint
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
CHECK_S, COSTLY_CHECK_S = 80.0, 600.0
"""The time limit of the whole check after loading; and if its rules run one by one."""
COSTLY_S = 2.0
"""An environment whose first few episodes take longer than this is costly: its rules would only slow each other down."""


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

    def allow_costly(self) -> None:
        self._until_s += COSTLY_CHECK_S - CHECK_S

    def left_s(self, since_s: float) -> float:
        """How much longer a rule may take that began at this moment."""
        return max(0.0, min(since_s + self._rule_s, self._until_s) - time.monotonic())


def check(
    name: str, sandbox: Sandbox, length: Length, rule_s: float = RULE_S, answers: Sequence[str] = ()
) -> tuple[Environment, list[EnvFinding]]:
    """The environment, and all findings about it, errors first. An environment without errors may be learned from. `answers` are tried as
    the only ones, beside those that the rules try.

    Raises `UnknownError` and `InputError` if it cannot be loaded.
    """
    environment, host = start_sandboxed(name, sandbox)
    limits = CheckTime(rule_s)
    try:
        begun_s = time.monotonic()
        findings = _judge(host, ["runs"], limits, at_once=True)
        if not any(finding.level == "error" for finding in findings):
            if costly := time.monotonic() - begun_s > COSTLY_S:
                limits.allow_costly()
            rules = [*(rule for rule in RULES if rule != "runs"), *([GIVEN] if answers else [])]
            findings += _judge(host, rules, limits, at_once=not costly, answers=tuple(answers))
            findings += _is_the_same_elsewhere(name, sandbox, host, limits)
            findings += _fits_the_model(host, environment, length, limits)
    finally:
        host.close()
    hinted = [replace(finding, message=with_hint(finding.message)) if finding.level == "error" else finding for finding in findings]
    return environment, sorted(hinted, key=lambda finding: finding.level)


def _judge(host: Host, rules: Sequence[str], limits: CheckTime, at_once: bool, answers: tuple[str, ...] = ()) -> list[EnvFinding]:
    """The findings of these rules, each in a process of its own."""
    if not at_once:
        return [finding for rule in rules for finding in _judge(host, [rule], limits, at_once=True, answers=answers)]
    asked: list[tuple[str, Worker | None]] = []
    for rule in rules:
        try:
            worker = host.take_worker()
            worker.ask(RuleQuestion(rule=rule, answers=answers if rule == GIVEN else ()))
        except (EnvironmentFault, WireError):
            worker = None
        asked.append((rule, worker))
    return [finding for rule, worker in asked for finding in _findings(host, rule, worker, limits)]


def _findings(host: Host, rule: str, worker: Worker | None, limits: CheckTime) -> list[EnvFinding]:
    if worker is None:
        return [EnvFinding(level="error", rule=rule, message="its process died")]
    limit_s = limits.left_s(worker.asked_s) + time.monotonic() - worker.asked_s
    try:
        answer = worker.answer(limit_s)
        if (fault := read_fault(answer)) is not None:
            return [EnvFinding(level="error", rule=rule, message=fault)]
        return [_read_finding(finding) for finding in list_field(answer, "findings")]
    except WireTimeout:
        host.end(worker)
        if rule == "runs":
            return [
                EnvFinding(level="error", rule=rule, message=f"a few episodes did not end in {limit_s:.0f} s: a call hangs, or is slow")
            ]
        message = f"it was not finished in {limit_s:.0f} s, so that nothing is known of it: a call hangs with these answers, or is slow"
        return [EnvFinding(level="warning", rule=rule, message=message)]
    except WireError:
        return [EnvFinding(level="error", rule=rule, message=host.end(worker, DYING_S))]


def _read_finding(finding: JsonValue) -> EnvFinding:
    match finding:
        case {"level": "error" | "warning" as level, "rule": str(rule), "message": str(message)}:
            return EnvFinding(level=level, rule=rule, message=message)
    raise WireDocumentError("it is not a finding")


def _is_the_same_elsewhere(name: str, sandbox: Sandbox, host: Host, limits: CheckTime) -> list[EnvFinding]:
    """Plays in a second process whose hashes of strings differ (an iteration over a set shows there); then in one with the same hashes."""
    where = ""
    try:
        here, told = _digest(host, limits)
        for hash_seed in (1, 0):
            _, other = start_sandboxed(name, sandbox, hash_seed)
            try:
                there, told_there = _digest(other, limits)
            finally:
                other.close()
            differs = there != here
            if not differs:
                break
            where = next((part for one, two in zip(told, told_there, strict=False) if (part := difference(one, two))), "in length")
    except WireTimeout:
        return [EnvFinding(level="warning", rule=ELSEWHERE, message="it is so slow that there was no time to play it in another process")]
    except (EnvironmentFault, InputError, WireError, OSError) as error:
        return [EnvFinding(level="error", rule=ELSEWHERE, message=f"it fails in another process: {error}")]
    if differs:
        return [EnvFinding(level="error", rule=ELSEWHERE, message=f"the same seeds gave different episodes in another process: {where}")]
    if hash_seed == 0:
        message = (
            "it depends on the hashes of strings (does it iterate over a set?): the sandbox fixes them, so do not name it in "
            "[sandbox] trusted"
        )
        return [EnvFinding(level="warning", rule=ELSEWHERE, message=message)]
    return []


def _digest(host: Host, limits: CheckTime) -> tuple[str, list[str]]:
    """The hash and the texts of a few episodes that are played there. Raises `EnvironmentFault` and `WireError`."""
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
    except WireTimeout:
        return [EnvFinding(level="warning", rule=FITS, message="it is so slow that there was no time to see how long episodes are")]
    except (EnvironmentFault, WireError):
        return []  # other rules report what fails
    tokens = length.tokens(texts) + environment.max_tokens
    if tokens <= length.limit / 2:
        return []
    about = "" if length.exact else "about "
    message = f"its longest episode has {about}{tokens} tokens; the model can read {length.limit}"
    return [EnvFinding(level="error" if tokens > length.limit else "warning", rule=FITS, message=message)]
