"""The rules of `perdure env check`, over an environment in this process: what learning and the gate rely on.

An `error` breaks a rule; a `warning` is for a person to judge: the runtime guards against it, or it only makes the numbers worth less.
Reward hacks are looked for with answers that know nothing of the task: empty, long, non-ASCII, an echo, and whatever the observations
themselves offer in brackets, given always. Each rule runs in a process of its own (`check.py`), so it may change global state; it plays
as many episodes as fit into its time.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, TypeVar

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, described
from perdure.envs.scripted import Answer, ScriptedEpisode, by_oracle, fixed, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS, Split
from perdure.memory.json_value import JsonObject

T = TypeVar("T")
EPISODES = 20
"""Episodes of each probe, on dev seeds."""
OVERLAP_EPISODES = 200
"""Tasks of train and of probe that are compared with each other."""
PATIENCE_S = 5.0
"""A rule that has played for so long comes to its end with what it has seen."""
MOST_CONSTANTS = 8
"""Answers that are tried as the only one."""
SLOW_S = 0.1
"""A step that takes longer on average keeps a generation batch waiting."""

SCRIPT = ("1", "yes", "[1]", "up", "2")
OFFERED = re.compile(r"\[([^\[\]\n]{1,20})\]")
TEMPLATE = re.compile(r"<\|[a-zA-Z_]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFinding:
    """One breach of a rule, or one thing to look at."""

    level: Literal["error", "warning"]
    rule: str
    message: str

    def as_json(self) -> JsonObject:
        return {"level": self.level, "rule": self.rule, "message": self.message}


LevelsAndMessages = Iterator[tuple[Literal["error", "warning"], str]]
"""Of the findings of a rule."""


def judge(environment: Environment, rule: str) -> list[EnvFinding]:
    """What one of `RULES` finds. Whatever the environment raises on the way is an error."""
    findings: list[EnvFinding] = []
    try:
        with redirect_stdout(sys.stderr):
            for level, message in RULES[rule](environment):
                findings.append(EnvFinding(level=level, rule=rule, message=message))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a finding
        message = str(error) if isinstance(error, EnvironmentFault) else f"it raised {described(error)}"
        findings.append(EnvFinding(level="error", rule=rule, message=message))
    return findings


def digest(environment: Environment) -> str:
    """A hash over whole episodes of a few seeds: equal wherever the environment behaves the same."""
    episodes = _episodes(environment, _seeds("dev", 3))
    return sha256(json.dumps([[played.exchanges, played.last, played.rewards] for played in episodes]).encode()).hexdigest()


def longest(environment: Environment) -> tuple[str, ...]:
    """The texts of the longest conversation of a few episodes, instructions and solved examples included."""
    played = _episodes(environment, _in_time(_seeds("dev", EPISODES)))
    most = max((episode.exchanges for episode in played), key=lambda exchanges: sum(len(asked) for asked, _ in exchanges))
    said = [text for exchange in (*environment.examples, *most) for text in exchange]
    return (environment.instructions, *said[:-1])


def _runs(environment: Environment) -> LevelsAndMessages:
    """It can be made, reset, stepped and closed, each within its time."""
    for seed in _seeds("train", 3):
        play_scripted(environment, seed, fixed("1"))
    env = environment.make()
    env.reset(seed=0)
    try:
        env.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a finding
        yield "warning", f"close raised {described(error)}"


def _passes_gymnasium(environment: Environment) -> LevelsAndMessages:
    """What Gymnasium's own checker says of what is made for Gymnasium; a class with only `reset` and `step` is not."""
    env = environment.make()
    if not isinstance(env.unwrapped, gymnasium.Env):
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except (AssertionError, gymnasium.error.Error) as error:
            yield "warning", f"Gymnasium's checker: {_line(str(error))}"
    for message in dict.fromkeys(_line(str(warning.message)) for warning in caught if "gymnasium" in str(warning.filename)):
        yield "warning", f"Gymnasium's checker: {message}"


def _is_deterministic(environment: Environment) -> LevelsAndMessages:
    """A seed played again goes the same way, whatever others did to the global generators, and whatever was played between."""
    scripted = _scripted(environment)
    first: dict[int, ScriptedEpisode] = {}
    for noise in (1, 2):
        for seed in _seeds("dev", 3):
            random.seed(noise)
            np.random.seed(noise)
            played = play_scripted(environment, seed, scripted)
            if first.setdefault(seed, played) != played:
                yield "error", f"seed {seed} played twice with the same actions went differently"
                return


def _leaves_random_alone(environment: Environment) -> LevelsAndMessages:
    """Others in the process use the global generators too: an environment that seeds them repeats their numbers."""
    scripted = _scripted(environment)
    for seed in _seeds("dev", 3):
        before = random.getstate(), str(np.random.get_state())
        play_scripted(environment, seed, scripted)
        if (random.getstate(), str(np.random.get_state())) != before:
            yield "warning", "it seeds or uses the global random generators: draw from self.np_random instead"
            return


def _varies(environment: Environment) -> LevelsAndMessages:
    if len({played.exchanges for played in _episodes(environment, _in_time(_seeds("train", 8)))}) == 1:
        yield "warning", "eight seeds gave one and the same episode: there is only one task to learn, and none to hold out"


def _keeps_its_range(environment: Environment) -> LevelsAndMessages:
    low, high = environment.reward_low, environment.reward_high
    answers = [fixed(""), _scripted(environment), *(fixed(text) for text in SCRIPT)]
    for seed, answer in _in_time(list(product(_seeds("dev", EPISODES), answers))):
        total = play_scripted(environment, seed, answer).total_reward
        if not low - 1e-9 <= total <= high + 1e-9:
            yield "error", f"an episode returned {total:g}, outside {low:g} to {high:g}: state reward_low and reward_high"
            return


def _oracle_succeeds(environment: Environment) -> LevelsAndMessages:
    """The right answers are paid, and nothing that the observations offer is paid better."""
    if not has_oracle(environment):
        return
    for seed in _in_time([seed for n in range(EPISODES) for seed in (SPLITS[split][n] for split in SPLITS)]):
        played = play_scripted(environment, seed, by_oracle)
        if not played.success or played.score < 1.0:
            yield "error", f"its oracle scored {played.score:g} on seed {seed}, in {len(played.exchanges)} turns"
            break
    right = {seed: play_scripted(environment, seed, by_oracle) for seed in _in_time(_seeds("dev", EPISODES), PATIENCE_S / 2)}
    always = [fixed(text) for text in _common(right.values())]
    best = {seed: max(play_scripted(environment, seed, answer).total_reward for answer in always) for seed in _in_time(list(right))}
    better = sum(paid > right[seed].total_reward + 1e-9 for seed, paid in best.items())
    if better > 0.1 * len(best):
        theirs, ours = (sum(paid) / len(best) for paid in (best.values(), (right[seed].total_reward for seed in best)))
        message = f"in {better} of {len(best)} tasks a wrong answer, given always, is paid better than the oracle's"
        yield "error", f"{message}: {theirs:.2f} against {ours:.2f} on average"


def _has_a_floor(environment: Environment) -> LevelsAndMessages:
    """Answers that know nothing must not succeed often, nor be paid well without success."""
    seeds = _seeds("dev", EPISODES)
    probes: list[tuple[Literal["error", "warning"], str, Answer]] = [
        ("error", "an empty answer", fixed("")),
        ("error", "a non-ASCII answer", fixed("ответ 答案 🙂")),
        ("error", "a very long answer", fixed("1 yes [1] up " * 1000)),
        ("warning", "an echo of the observation", lambda observation, _: observation),
    ]
    seen = _episodes(environment, _in_time(seeds))
    if any(played.several for played in seen):
        return  # all seats would answer alike, and one of them wins

    def tried(answer: Answer) -> tuple[int, int, float]:
        """Successes, episodes, and the mean share of the highest return."""
        episodes = [play_scripted(environment, seed, answer) for seed in _in_time(seeds, PATIENCE_S / 4)]
        paid = sum(environment.judge(played.total_reward, None)[1] for played in episodes) / len(episodes)
        return sum(played.success for played in episodes), len(episodes), paid

    constants = [(tried(fixed(text)), text) for text in _in_time(_common(seen))]
    worst = max(constants, key=lambda found: (found[0][0] > 0.75 * found[0][1], found[0][2]))
    for (succeeded, of, paid), level, what in (
        *((tried(answer), level, what) for level, what, answer in _in_time(probes)),
        (worst[0], "warning", f"always answering {worst[1]!r}"),
    ):
        if succeeded > of * (0.25 if level == "error" else 0.75):
            yield level, f"{what} succeeds in {succeeded} of {of} episodes"
        elif paid > 0.5 and succeeded < of * 0.25:
            yield "warning", f"{what} is paid {paid:.2f} of the highest return, with {succeeded} of {of} successes"


def _stays_ended(environment: Environment) -> LevelsAndMessages:
    """The runtime never steps after the end; others who run the environment may."""
    env = environment.make()
    try:
        observation, _ = env.reset(seed=_seeds("dev", 1)[0])
        for _ in range(environment.turn_limit):
            observation, _, terminated, truncated, info = env.step(SCRIPT[0])
            if terminated or truncated:
                break
        else:
            return
        before = info.get("success", False)
        for action in (*SCRIPT, observation):
            try:
                _, reward, _, _, info = env.step(action)
            except (Exception, SystemExit):  # noqa: BLE001  a refusal in any form is right
                return
            if reward or info.get("success", before) != before:
                yield "warning", f"a step after the end gave reward {reward:g}: it would change the outcome"
                return
    finally:
        env.close()


def _carries_nothing_over(environment: Environment) -> LevelsAndMessages:
    """The runtime makes a fresh environment for each episode; others who run the environment may not."""
    first, second = _seeds("dev", 2)
    env = environment.make()
    try:
        fresh, _ = env.reset(seed=second)
        env.reset(seed=first)
        env.step(SCRIPT[0])
        again, _ = env.reset(seed=second)
    except Exception as error:
        raise EnvironmentFault(f"a second episode on one object raised {described(error)}") from error
    finally:
        env.close()
    if again != fresh:
        yield "warning", f"after another episode, seed {second} begins differently: {again[:80]!r}, not {fresh[:80]!r}"


def _splits_its_tasks(environment: Environment) -> LevelsAndMessages:
    """Seeds of train and probe never meet; their tasks do, where there are few of them."""
    train: set[str] = set()
    probe: list[str] = []
    scripted = _scripted(environment)
    for n in _in_time(range(OVERLAP_EPISODES)):  # a whole episode under the same answers tells a task from others
        train.add(repr(play_scripted(environment, SPLITS["train"][n], scripted)))
        probe.append(repr(play_scripted(environment, SPLITS["probe"][n], scripted)))
    shared = sum(task in train for task in probe)
    if shared:
        message = f"{shared} of {len(probe)} probe tasks also came up among as many train tasks: probes then test memory rather than skill"
        yield "warning", message


def _is_plain_text(environment: Environment) -> LevelsAndMessages:
    """The runtime keeps such things as text; a model reads better without them, and a person's terminal too."""
    played = _episodes(environment, _in_time(_seeds("dev", EPISODES)))
    texts = [environment.instructions, *(text for episode in played for text in (*(asked for asked, _ in episode.exchanges), episode.last))]
    for what, pattern in (("tokens of chat templates", TEMPLATE), ("control characters", CONTROL)):
        found = next((match[0] for text in texts if (match := pattern.search(text))), None)
        if found is not None:
            yield "warning", f"observations hold {what}, such as {found!a}: they reach the model as plain text"
    if any(_repeats(episode) for episode in played):
        yield "warning", "observations repeat what was said before: the conversation holds it already, and prompts grow twice as fast"


def _is_quick(environment: Environment) -> LevelsAndMessages:
    """While one environment works, the model waits."""
    started = time.perf_counter()
    steps = sum(len(played.exchanges) for played in _episodes(environment, _in_time(_seeds("dev", EPISODES))))
    spent_s = time.perf_counter() - started
    if spent_s > SLOW_S * steps:
        yield "warning", f"a step takes {spent_s / steps:.2g} s on average, making and reset included: a batch waits for it"


def _keeps_to_itself(environment: Environment) -> LevelsAndMessages:
    """What it prints, writes, starts and connects to. In the sandbox these come to nothing, or stay in a folder of its own."""
    seen: dict[str, str] = {}
    own = os.getcwd()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        what = _ACTS.get(event)
        if event == "open":
            path, mode, flags = arguments
            written = isinstance(path, str) and (flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(str(mode)) & set("wax+"))
            what = "writes a file" if written and not path.startswith((own, "/dev/")) and "__pycache__" not in path else None
        if what is not None and what not in seen:
            seen[what] = ascii(arguments[1] if event == "socket.connect" else arguments[0])[:80]

    printed = os.open("printed", os.O_RDWR | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(printed, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.addaudithook(watch)
    _episodes(environment, _in_time(_seeds("dev", 3)))
    sys.stdout.flush()
    sys.stderr.flush()
    text = Path("printed").read_text(errors="replace").strip()
    if text:
        yield "warning", f"it prints, such as {text.splitlines()[0][:60]!a}"
    for what, example in seen.items():
        yield "warning", f"it {what}: {example}"


_ACTS = {
    "socket.connect": "connects to the network",
    "socket.getaddrinfo": "asks for an address on the network",
    "subprocess.Popen": "starts a program",
    "os.system": "starts a program",
    "os.posix_spawn": "starts a program",
    "os.remove": "removes a file",
}

RULES: Mapping[str, Callable[[Environment], LevelsAndMessages]] = {
    "runs": _runs,
    "passes-gymnasium": _passes_gymnasium,
    "is-deterministic": _is_deterministic,
    "leaves-random-alone": _leaves_random_alone,
    "varies": _varies,
    "keeps-its-range": _keeps_its_range,
    "oracle-succeeds": _oracle_succeeds,
    "has-a-floor": _has_a_floor,
    "stays-ended": _stays_ended,
    "carries-nothing-over": _carries_nothing_over,
    "splits-its-tasks": _splits_its_tasks,
    "is-plain-text": _is_plain_text,
    "is-quick": _is_quick,
    "keeps-to-itself": _keeps_to_itself,
}


def _episodes(environment: Environment, seeds: Iterable[int]) -> list[ScriptedEpisode]:
    """Whole episodes of these seeds, as `_scripted` answers."""
    scripted = _scripted(environment)
    return [play_scripted(environment, seed, scripted) for seed in seeds]


def _scripted(environment: Environment) -> Answer:
    """The right answers where they can be had, so that whole episodes are seen; else a fixed cycle."""
    if has_oracle(environment):
        return by_oracle
    return lambda observation, env: SCRIPT[len(observation) % len(SCRIPT)]


def _common(episodes: Iterable[ScriptedEpisode]) -> list[str]:
    """What was answered most often, and what first observations show in square brackets."""
    found = Counter[str]()
    for played in episodes:
        found.update({f"[{text}]" for text in OFFERED.findall(played.exchanges[0][0])} | {action for _, action in played.exchanges})
    return [text for text, _ in found.most_common(MOST_CONSTANTS)]


def _repeats(played: ScriptedEpisode) -> bool:
    """Whether some observation begins with all of the one before it."""
    asked = [observation for observation, _ in played.exchanges]
    return any(len(before) > 40 and after.startswith(before) for before, after in pairwise(asked))


def _in_time(items: Sequence[T], seconds: float = PATIENCE_S) -> Iterator[T]:
    """These items, as long as there is time; the first two in any case."""
    until = time.monotonic() + seconds
    for n, item in enumerate(items):
        if n >= 2 and time.monotonic() > until:
            return
        yield item


def _seeds(split: Split, count: int) -> Sequence[int]:
    return SPLITS[split][:count]


def _line(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:200]
