"""Whether an environment keeps the rules that learning and the gate rely on.

An `error` breaks a rule; a `warning` is for a person to judge: the runtime guards against it, or it only makes the numbers worth less.
Reward hacks are looked for with answers that know nothing of the task: empty, long, non-ASCII, an echo, and the best constant one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, described
from perdure.envs.registry import load
from perdure.envs.scripted import Answer, by_oracle, fixed, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS, Split
from perdure.memory.errors import InputError

EPISODES = 20
"""Episodes of each probe, on dev seeds."""
OVERLAP_EPISODES = 200
"""Tasks of train and of probe that are compared with each other, fewer where they take longer than `OVERLAP_S`."""
OVERLAP_S = 10.0
OTHER_PROCESS_S = 120.0
SCRIPT = ("1", "yes", "[1]", "up", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found."""

    level: Literal["error", "warning"]
    rule: str
    message: str

    def as_json(self) -> dict[str, str]:
        return {"level": self.level, "rule": self.rule, "message": self.message}


def check(environment: Environment) -> list[Finding]:
    """All findings, errors first. An environment without errors may be learned from."""
    findings: list[Finding] = []
    for rule in RULES:
        try:
            with redirect_stdout(sys.stderr):
                findings += rule(environment)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an environment raises is a finding
            message = str(error) if isinstance(error, EnvironmentFault) else f"it raised {described(error)}"
            findings.append(_error(rule.__name__.strip("_").replace("_", "-"), message))
        if rule is _runs and findings:
            break
    return sorted(findings, key=lambda finding: finding.level)


def digest(environment: Environment) -> str:
    """A hash over whole episodes of a few seeds: equal wherever the environment behaves the same."""
    episodes = [play_scripted(environment, seed, _scripted(environment)) for seed in _seeds("dev", 3)]
    return sha256(json.dumps([[played.exchanges, played.last, played.rewards] for played in episodes]).encode()).hexdigest()


def _runs(environment: Environment) -> list[Finding]:
    for seed in _seeds("train", 3):
        play_scripted(environment, seed, fixed("1"))
    return []


def _is_deterministic(environment: Environment) -> list[Finding]:
    state = random.getstate()
    try:
        for seed in _seeds("dev", 3):
            random.seed(1)
            first = play_scripted(environment, seed, _scripted(environment))
            random.seed(2)
            if play_scripted(environment, seed, _scripted(environment)) != first:
                return [_error("is-deterministic", f"seed {seed} played twice with the same actions went differently")]
    finally:
        random.setstate(state)
    return []


def _is_the_same_elsewhere(environment: Environment) -> list[Finding]:
    """In another process, whose hashes of strings differ (an iteration over a set shows there)."""
    try:
        load(environment.name)
    except InputError:
        return []  # it was not made by name, so another process cannot make it
    command = "import sys; sys.path.append(''); from perdure.envs.check import digest, load; print(digest(load(sys.argv[1])))"
    variables = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", command, environment.name], env=variables, capture_output=True, text=True, timeout=OTHER_PROCESS_S
        )
    except subprocess.TimeoutExpired:
        return [_error("is-the-same-elsewhere", f"three episodes in another process took longer than {OTHER_PROCESS_S:g} s")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [_error("is-the-same-elsewhere", f"it fails in another process: {last}")]
    if done.stdout.split()[-1:] != [digest(environment)]:
        return [_error("is-the-same-elsewhere", "the same seeds went differently in another process: does it iterate over a set?")]
    return []


def _varies(environment: Environment) -> list[Finding]:
    if len({play_scripted(environment, seed, _scripted(environment)).exchanges for seed in _seeds("train", 8)}) == 1:
        return [_warning("varies", "eight seeds gave one and the same episode: there is only one task to learn, and none to hold out")]
    return []


def _keeps_its_range(environment: Environment) -> list[Finding]:
    low, high = environment.reward_low, environment.reward_high
    for answer in (fixed(""), _scripted(environment), *(fixed(text) for text in SCRIPT)):
        for seed in _seeds("dev", 5):
            total = play_scripted(environment, seed, answer).total_reward
            if not low - 1e-9 <= total <= high + 1e-9:
                message = f"an episode returned {total:g}, outside {low:g} to {high:g}: state reward_low and reward_high"
                return [_error("keeps-its-range", message)]
    return []


def _oracle_succeeds(environment: Environment) -> list[Finding]:
    if not has_oracle(environment):
        return []
    for split in SPLITS:
        for seed in _seeds(split, EPISODES):
            played = play_scripted(environment, seed, by_oracle)
            if not played.success or played.score < 1.0:
                return [_error("oracle-succeeds", f"its oracle scored {played.score:g} on seed {seed}, in {len(played.exchanges)} turns")]
    return []


def _has_a_floor(environment: Environment) -> list[Finding]:
    """Answers that know nothing must not succeed often, nor be paid well without success."""
    seeds = _seeds("dev", EPISODES)
    probes: list[tuple[Literal["error", "warning"], str, Answer]] = [
        ("error", "an empty answer", fixed("")),
        ("error", "a non-ASCII answer", fixed("ответ 答案 🙂")),
        ("error", "a very long answer", fixed("1 yes [1] up " * 1000)),
        ("warning", "an echo of the observation", lambda observation, _: observation),
    ]
    if has_oracle(environment):
        right = Counter(action for seed in seeds for _, action in play_scripted(environment, seed, by_oracle).exchanges)
        probes += [("warning", f"always answering {text!r}", fixed(text)) for text, _ in right.most_common(2)]
    findings: list[Finding] = []
    for level, what, answer in probes:
        episodes = [play_scripted(environment, seed, answer) for seed in seeds]
        succeeded = sum(played.success for played in episodes)
        paid = sum(environment.judge(played.total_reward, None)[1] for played in episodes) / EPISODES
        if succeeded > EPISODES * (0.25 if level == "error" else 0.75):
            findings.append(Finding(level=level, rule="has-a-floor", message=f"{what} succeeds in {succeeded} of {EPISODES} episodes"))
        elif paid > 0.5 and succeeded < EPISODES * 0.25:
            message = f"{what} is paid {paid:.2f} of the highest return, with {succeeded} of {EPISODES} successes"
            findings.append(_warning("has-a-floor", message))
    return findings


def _stays_ended(environment: Environment) -> list[Finding]:
    """The runtime never steps after the end; others who run the environment may."""
    env = environment.make()
    try:
        observation, _ = env.reset(seed=_seeds("dev", 1)[0])
        for _ in range(environment.turn_limit):
            observation, _, terminated, truncated, info = env.step(SCRIPT[0])
            if terminated or truncated:
                break
        else:
            return []
        before = info.get("success", False)
        for action in (*SCRIPT, observation):
            try:
                _, reward, _, _, info = env.step(action)
            except (Exception, SystemExit):  # noqa: BLE001  a refusal in any form is right
                return []
            if reward or info.get("success", before) != before:
                return [_warning("stays-ended", f"a step after the end gave reward {reward} and changed the outcome")]
    finally:
        env.close()
    return []


def _carries_nothing_over(environment: Environment) -> list[Finding]:
    """The runtime makes a fresh environment for each episode; others who run the environment may not."""
    first, second = _seeds("dev", 2)
    env = environment.make()
    try:
        fresh, _ = env.reset(seed=second)
        env.reset(seed=first)
        env.step(SCRIPT[0])
        again, _ = env.reset(seed=second)
    except Exception as error:
        raise EnvironmentFault(f"a second episode on one object raised {type(error).__name__}: {error}") from error
    finally:
        env.close()
    if again != fresh:
        return [
            _warning("carries-nothing-over", f"after another episode, seed {second} begins differently: {again[:80]!r}, not {fresh[:80]!r}")
        ]
    return []


def _splits_its_tasks(environment: Environment) -> list[Finding]:
    """Seeds of train and probe never meet; their tasks do, where there are few of them."""
    until = time.monotonic() + OVERLAP_S
    train: set[str] = set()
    probe: list[str] = []
    for train_seed, probe_seed in zip(_seeds("train", OVERLAP_EPISODES), _seeds("probe", OVERLAP_EPISODES), strict=True):
        train.add(_fingerprint(environment, train_seed))
        probe.append(_fingerprint(environment, probe_seed))
        if time.monotonic() > until:
            break
    shared = sum(task in train for task in probe)
    if shared:
        message = f"{shared} of {len(probe)} probe tasks also came up among as many train tasks: probes then test memory rather than skill"
        return [_warning("splits-its-tasks", message)]
    return []


def _fingerprint(environment: Environment, seed: int) -> str:
    """What tells a task from others: its whole episode under the same answers."""
    return repr(play_scripted(environment, seed, _scripted(environment)))


def _scripted(environment: Environment) -> Answer:
    """The right answers where they can be had, so that whole episodes are seen; else a fixed cycle."""
    if has_oracle(environment):
        return by_oracle
    return lambda observation, env: SCRIPT[len(observation) % len(SCRIPT)]


def _seeds(split: Split, count: int) -> Sequence[int]:
    return SPLITS[split][:count]


RULES: tuple[Callable[[Environment], list[Finding]], ...] = (
    _runs,
    _is_deterministic,
    _is_the_same_elsewhere,
    _varies,
    _keeps_its_range,
    _oracle_succeeds,
    _has_a_floor,
    _stays_ended,
    _carries_nothing_over,
    _splits_its_tasks,
)


def _error(rule: str, message: str) -> Finding:
    return Finding(level="error", rule=rule, message=message)


def _warning(rule: str, message: str) -> Finding:
    return Finding(level="warning", rule=rule, message=message)
