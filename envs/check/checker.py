"""`perdure env check`: whether an environment keeps the rules that learning and the gate rely on.

The environment is loaded in a process of its own, and each rule (`rules.py`) runs in a fork of that: if the environment hangs, crashes or
uses up the memory in one rule, that is one finding, and the others go on. A rule that was not finished in time is a warning: nothing is
known of it. The rules that need a second process or a model are here.

    the first few episodes take    rules run
    a blink (QUICK_S)              one after the other in one fork, since a fork costs more than a rule
    longer                         at once, each in a fork of its own
    seconds (COSTLY_S)             one by one, each in a fork of its own
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
QUICK_S = 0.2
"""The same, with the fork in which they are played: of one that is so quick, a whole rule seldom takes longer than a fork."""
SOON_S = 3.0
"""How long a rule of a quick environment may take before the others do not wait for it any more."""
LAST = "keeps-to-itself"
"""The rule that watches its process for good, so that no other can follow there."""
AROUND = 8
"""Tokens that a chat template puts around a message, about."""


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
        findings = _judge(host, ["runs"], limits)
        if not any(finding.level == "error" for finding in findings):
            taken_s = time.monotonic() - begun_s
            if taken_s > COSTLY_S:
                limits.allow_costly()
            rules = [*(rule for rule in RULES if rule not in ("runs", LAST)), *([GIVEN] if answers else []), LAST]
            if taken_s < QUICK_S:
                found, rules = _judge_quickly(host, rules, limits, tuple(answers))
                findings += found
                host.end_idle()  # whatever comes next begins in a process of its own
            at_once = 1 if taken_s > COSTLY_S else max(1, len(rules))
            for n in range(0, len(rules), at_once):
                findings += _judge(host, rules[n : n + at_once], limits, tuple(answers))
            findings += _is_the_same_elsewhere(name, sandbox, host, limits)
            findings += _fits_the_model(host, environment, length, limits)
    finally:
        host.close()
    hinted = [replace(finding, message=with_hint(finding.message)) if finding.level == "error" else finding for finding in findings]
    return environment, sorted(hinted, key=lambda finding: finding.level)


def _judge(host: Host, rules: Sequence[str], limits: CheckTime, answers: tuple[str, ...] = ()) -> list[EnvFinding]:
    """The findings of these rules, at once, each in a process of its own."""
    asked = [(rule, _asked(host, rule, answers)) for rule in rules]
    return [finding for rule, worker in asked for finding in _findings(host, rule, worker, limits)]


def _judge_quickly(host: Host, rules: Sequence[str], limits: CheckTime, answers: tuple[str, ...]) -> tuple[list[EnvFinding], list[str]]:
    """The findings of these rules in turn, in one process as long as nothing fails there, and in another one then.

    Gives also the rules that are left if one is not finished soon: perhaps a call hangs, and the others are not to wait for it.
    """
    findings: list[EnvFinding] = []
    for n, rule in enumerate(rules):
        worker = _asked(host, rule, answers)
        found = _answered(host, rule, worker, SOON_S if worker is None else min(SOON_S, limits.left_s(worker.asked_s)))
        if found is None:
            return findings, list(rules[n:])
        findings += found
        if worker is not None:
            worker.playing = worker.spent = any(finding.level == "error" for finding in found)
    return findings, []


def _asked(host: Host, rule: str, answers: tuple[str, ...]) -> Worker | None:
    """The process that was asked for the findings of a rule; None if it died."""
    try:
        worker = host.take_worker()
        worker.ask(RuleQuestion(rule=rule, answers=answers if rule == GIVEN else ()))
    except (EnvironmentFault, WireError):
        return None
    return worker


def _findings(host: Host, rule: str, worker: Worker | None, limits: CheckTime) -> list[EnvFinding]:
    limit_s = 0.0 if worker is None else limits.left_s(worker.asked_s) + time.monotonic() - worker.asked_s
    found = _answered(host, rule, worker, limit_s)
    if found is not None:
        return found
    if rule == "runs":
        return [EnvFinding(level="error", rule=rule, message=f"a few episodes did not end in {limit_s:.0f} s: a call hangs, or is slow")]
    message = f"it was not finished in {limit_s:.0f} s, so that nothing is known of it: a call hangs with these answers, or is slow"
    return [EnvFinding(level="warning", rule=rule, message=message)]


def _answered(host: Host, rule: str, worker: Worker | None, limit_s: float) -> list[EnvFinding] | None:
    """What a process found, from when it was asked on; None if it was not finished in time, and was ended."""
    if worker is None:
        return [EnvFinding(level="error", rule=rule, message="its process died")]
    try:
        answer = worker.answer(limit_s)
        if (fault := read_fault(answer)) is not None:
            return [EnvFinding(level="error", rule=rule, message=fault)]
        return [_read_finding(finding) for finding in list_field(answer, "findings")]
    except WireTimeout:
        host.end(worker)
        return None
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
    worker.playing = False
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
    if sum(len(text.encode()) for text in texts) + environment.max_tokens <= length.limit / 2 - AROUND * len(texts):
        return []  # a token has at least one byte: they need not be counted
    tokens = length.tokens(texts) + environment.max_tokens
    if tokens <= length.limit / 2:
        return []
    about = "" if length.exact else "about "
    message = f"its longest episode has {about}{tokens} tokens; the model can read {length.limit}"
    return [EnvFinding(level="error" if tokens > length.limit else "warning", rule=FITS, message=message)]
