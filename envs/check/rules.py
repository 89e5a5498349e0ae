"""The rules of `perdure env check`, for an environment in this process: what learning and the gate rely on.

An `error` breaks a rule; a `warning` is for a person to judge: the runtime guards against it, or it only makes the numbers less useful.
Reward hacks are tried with answers that use no knowledge of the task: empty, long, non-ASCII, an echo, and always the same answer out of
those that observations offer in brackets. Each rule runs in a process of its own (`checker.py`), so that it may change global state; it
plays as many episodes as its time allows.
"""

from __future__ import annotations

import logging
import os
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from perdure.envs.check.hack_rules import resists_answers, resists_copying, resists_farming, resists_wild_answers
from perdure.envs.check.sample_episodes import (
    EPISODES,
    PATIENCE_S,
    SCRIPT,
    common_answers,
    difference,
    first_seeds,
    in_time,
    sample_episodes,
    script,
    transcript,
)
from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, describe_error, place_of
from perdure.envs.scripted import Answer, ScriptedEpisode, by_oracle, fixed, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS
from perdure.memory.json_value import JsonObject

OVERLAP_EPISODES = 200
"""Train tasks and probe tasks that are compared with each other."""
LONG, PARTS, OFTEN = "a very long answer", ("1", "yes", "[1]", "up "), 0.25
"""If an answer consists of parts of which one succeeds often by itself, its length is not what succeeds."""
GIVEN = "resists-given-answers"
"""The rule that tries the answers of the file that was given to the check."""
SLOW_S = 0.1
"""A step that takes longer on average delays a generation batch."""

NO_RIGHT_MOVES = (
    ", as far as answers show that know nothing of it: there may be only one task, or right moves may be needed to see others "
    "(with an oracle() this could be told)"
)

TEMPLATE = re.compile(r"<\|[a-zA-Z_]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|\ufffd")


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


def check_rule(environment: Environment, rule: str, answers: Sequence[str] = ()) -> list[EnvFinding]:
    """The findings of one of `RULES`, or of `GIVEN` with these answers. An exception of the environment is an error."""
    findings: list[EnvFinding] = []
    judged = RULES[rule](environment) if rule != GIVEN else resists_answers(environment, answers)
    try:
        with redirect_stdout(sys.stderr):
            for level, message in judged:
                findings.append(EnvFinding(level=level, rule=rule, message=message))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a finding
        message = str(error) if isinstance(error, EnvironmentFault) else f"it raised {describe_error(error)}{place_of(error)}"
        findings.append(EnvFinding(level="error", rule=rule, message=message))
    return findings


def _runs(environment: Environment) -> LevelsAndMessages:
    """It can be made, reset, stepped and closed, each within its time limit."""
    for seed in first_seeds("train", 3):
        play_scripted(environment, seed, fixed("1"))
    if has_oracle(environment):
        play_scripted(environment, first_seeds("train", 1)[0], by_oracle)
    env = environment.make()
    env.reset(seed=0)
    try:
        env.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a finding
        yield "warning", f"close raised {describe_error(error)}"


def _passes_gymnasium(environment: Environment) -> LevelsAndMessages:
    """Gymnasium's own checker has no complaints. A class with only `reset` and `step` is not checked."""
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
    """A seed gives the same episode again, for any state of the global generators and after any other episodes."""
    scripted = script(environment)
    first: dict[int, ScriptedEpisode] = {}
    for noise in (1, 2):
        for seed in first_seeds("dev", 3):
            random.seed(noise)
            np.random.seed(noise)
            played = play_scripted(environment, seed, scripted)
            if first.setdefault(seed, played) != played:
                where = difference(transcript(first[seed]), transcript(played))
                yield "error", f"seed {seed} played twice with the same actions gave different episodes: {where}"
                return


def _leaves_random_alone(environment: Environment) -> LevelsAndMessages:
    """It does not touch the global generators, which others in the process use too: seeding them repeats the numbers of others."""
    scripted = script(environment)
    for seed in first_seeds("dev", 3):
        before = random.getstate(), str(np.random.get_state())
        play_scripted(environment, seed, scripted)
        if (random.getstate(), str(np.random.get_state())) != before:
            yield "warning", "it seeds or uses the global random generators: draw from self.np_random instead"
            return


def _varies(environment: Environment) -> LevelsAndMessages:
    """Different seeds are different tasks."""
    if len({transcript(played) for played in sample_episodes(environment, in_time(first_seeds("train", 8)))}) == 1:
        if has_oracle(environment):
            yield "warning", "eight seeds gave the same episode: there is only one task to learn, and none to hold out"
        else:
            yield "warning", f"eight seeds gave the same episode{NO_RIGHT_MOVES}"


def _keeps_its_range(environment: Environment) -> LevelsAndMessages:
    """Returns lie between `reward_low` and `reward_high`."""
    low, high = environment.reward_low, environment.reward_high
    answers = [fixed(""), script(environment), *(fixed(text) for text in SCRIPT)]
    for seed, answer in in_time(list(product(first_seeds("dev", EPISODES), answers))):
        total = play_scripted(environment, seed, answer).total_reward
        if not low - 1e-9 <= total <= high + 1e-9:
            yield "error", f"an episode returned {total:g}, outside {low:g} to {high:g}: set reward_low and reward_high"
            return


def _oracle_succeeds(environment: Environment) -> LevelsAndMessages:
    """The right answers succeed, and no constant answer that observations offer is paid better."""
    if not has_oracle(environment):
        return
    for seed in in_time([seed for n in range(EPISODES) for seed in (SPLITS[split][n] for split in SPLITS)]):
        played = play_scripted(environment, seed, by_oracle)
        if not played.success or played.score < 1.0:
            yield "error", f"its oracle scored {played.score:g} on seed {seed}, in {len(played.exchanges)} turns"
            break
    right = {seed: play_scripted(environment, seed, by_oracle) for seed in in_time(first_seeds("dev", EPISODES), PATIENCE_S / 2)}
    always = [fixed(text) for text in common_answers(right.values())]
    best = {seed: max(play_scripted(environment, seed, answer).total_reward for answer in always) for seed in in_time(list(right))}
    better = sum(paid > right[seed].total_reward + 1e-9 for seed, paid in best.items())
    if better > 0.1 * len(best):
        theirs, ours = (sum(paid) / len(best) for paid in (best.values(), (right[seed].total_reward for seed in best)))
        message = f"in {better} of {len(best)} tasks always giving one wrong answer is paid better than the oracle"
        yield "error", f"{message}: {theirs:.2f} against {ours:.2f} on average"


def _has_a_floor(environment: Environment) -> LevelsAndMessages:
    """Answers without knowledge of the task neither succeed often nor are paid well without success."""
    seeds = first_seeds("dev", EPISODES)
    probes: list[tuple[Literal["error", "warning"], str, Answer]] = [
        ("error", "an empty answer", fixed("")),
        ("error", "a non-ASCII answer", fixed("ответ 答案 🙂")),
        ("error", LONG, fixed(" ".join(PARTS) * 1000)),
        ("warning", "an echo of the observation", lambda observation, _: observation),
    ]
    seen = sample_episodes(environment, in_time(seeds))
    if any(played.several for played in seen):
        return  # all seats would give the same answers, and one of them wins

    def try_answer(answer: Answer) -> tuple[int, int, float]:
        """Successes, episodes, and the mean share of the highest return."""
        episodes = [play_scripted(environment, seed, answer) for seed in in_time(seeds, PATIENCE_S / 4)]
        paid = sum(environment.judge(played.total_reward, None)[1] for played in episodes) / len(episodes)
        return sum(played.success for played in episodes), len(episodes), paid

    constants = [(try_answer(fixed(text)), text) for text in in_time(common_answers(seen))]
    worst = max(constants, key=lambda constant: (constant[0][0] > 0.75 * constant[0][1], constant[0][2]))
    for (succeeded, of, paid), level, what in (
        *((try_answer(answer), level, what) for level, what, answer in in_time(probes)),
        (worst[0], "warning", f"always answering {worst[1]!r}"),
    ):
        if succeeded > of * (OFTEN if level == "error" else 0.75):
            if what == LONG and any(try_answer(fixed(text))[0] > OFTEN * EPISODES for text in PARTS):
                level = "warning"
            yield level, f"{what} succeeds in {succeeded} of {of} episodes"
        elif paid > 0.5 and succeeded < of * OFTEN:
            yield "warning", f"{what} is paid {paid:.2f} of the highest return, with {succeeded} of {of} successes"


def _stays_ended(environment: Environment) -> LevelsAndMessages:
    """A step after the end changes nothing. The runtime never makes one; other programs may."""
    env = environment.make()
    try:
        observation, _ = env.reset(seed=first_seeds("dev", 1)[0])
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
            except (Exception, SystemExit):  # noqa: BLE001 - a refusal in any form is right
                return
            if reward or info.get("success", before) != before:
                yield "warning", f"a step after the end gave reward {reward:g}: it would change the result"
                return
    finally:
        with suppress(Exception, SystemExit):  # `runs` reports it
            env.close()


def _carries_nothing_over(environment: Environment) -> LevelsAndMessages:
    """A second episode on one object begins like a fresh one. The runtime makes a fresh object each time; other programs may not."""
    first, second = first_seeds("dev", 2)
    env = environment.make()
    try:
        fresh, _ = env.reset(seed=second)
        env.reset(seed=first)
        env.step(SCRIPT[0])
        again, _ = env.reset(seed=second)
    except Exception as error:
        raise EnvironmentFault(f"a second episode on one object raised {describe_error(error)}{place_of(error)}") from error
    finally:
        with suppress(Exception, SystemExit):  # `runs` reports it
            env.close()
    if again != fresh:
        yield "warning", f"after another episode, seed {second} begins differently: {again[:80]!r}, not {fresh[:80]!r}"


def _splits_its_tasks(environment: Environment) -> LevelsAndMessages:
    """Probe tasks do not come up among train tasks. Their seeds never do; their tasks may, if there are few of them."""
    train: set[str] = set()
    probe: list[str] = []
    scripted = script(environment)
    for n in in_time(range(OVERLAP_EPISODES)):  # a whole episode with the same answers identifies a task
        train.add(repr(play_scripted(environment, SPLITS["train"][n], scripted)))
        probe.append(repr(play_scripted(environment, SPLITS["probe"][n], scripted)))
    shared = sum(task in train for task in probe)
    if shared:
        message = f"{shared} of {len(probe)} probe tasks also came up among as many train tasks"
        if shared == len(probe) and len(train) == 1 and not has_oracle(environment):
            yield "warning", f"{message}{NO_RIGHT_MOVES}"
            return
        remedy = "hold some out: choose the task by `perdure.split_of(seed)` and `perdure.split_by_content(text)` (docs/environments.md)"
        yield "warning", f"{message}: probes then test memory rather than skill; {remedy}"


def _is_plain_text(environment: Environment) -> LevelsAndMessages:
    """Observations have no template tokens and control characters. The runtime keeps them as text; a model reads better without."""
    played = sample_episodes(environment, in_time(first_seeds("dev", EPISODES)))
    texts = [
        environment.instructions,
        *(episode.instructions for episode in played if episode.instructions is not None),
        *(text for episode in played for text in (*(observation for observation, _ in episode.exchanges), episode.last)),
    ]
    for what, pattern in (("tokens of chat templates", TEMPLATE), ("control characters", CONTROL)):
        example = next((match[0] for text in texts if (match := pattern.search(text))), None)
        if example is not None:
            yield "warning", f"observations contain {what}, such as {example!a}: they reach the model as plain text"
    if any(_repeats(episode) for episode in played):
        yield "warning", "observations repeat earlier ones: the conversation has them already, and prompts grow twice as fast"


def _is_quick(environment: Environment) -> LevelsAndMessages:
    """A step is fast: while one environment works, the model waits."""
    started = time.perf_counter()
    steps = sum(len(played.exchanges) for played in sample_episodes(environment, in_time(first_seeds("dev", EPISODES))))
    spent_s = time.perf_counter() - started
    if spent_s > SLOW_S * steps:
        yield "warning", f"a step takes {spent_s / steps:.2g} s on average, making and reset included: a batch waits for it"


def _keeps_to_itself(environment: Environment) -> LevelsAndMessages:
    """It does not print, write, start programs or connect. In the sandbox these fail, or stay in a folder of its own."""
    seen: dict[str, str] = {}
    own = os.getcwd()
    logging.getLogger("perdure").addHandler(logging.NullHandler())  # what we say of it is not what it prints

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
    sample_episodes(environment, in_time(first_seeds("dev", 3)))
    sys.stdout.flush()
    sys.stderr.flush()
    text = os.pread(printed, 2**16, 0).decode(errors="replace").strip()  # its name may lead elsewhere by now
    if text:
        yield "warning", f"it prints, such as {text.splitlines()[0][:60]!a}"
    for what, example in seen.items():
        yield "warning", f"it {what}: {example}"


_ACTS = {
    "socket.connect": "connects to the network",
    "socket.getaddrinfo": "looks up an address on the network",
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
    "resists-wild-answers": resists_wild_answers,
    "resists-copying": resists_copying,
    "resists-farming": resists_farming,
    "stays-ended": _stays_ended,
    "carries-nothing-over": _carries_nothing_over,
    "splits-its-tasks": _splits_its_tasks,
    "is-plain-text": _is_plain_text,
    "is-quick": _is_quick,
    "keeps-to-itself": _keeps_to_itself,
}


def _repeats(played: ScriptedEpisode) -> bool:
    """Whether some observation begins with the whole one before it."""
    observations = [observation for observation, _ in played.exchanges]
    return any(len(before) > 40 and after.startswith(before) for before, after in pairwise(observations))


def _line(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:200]
