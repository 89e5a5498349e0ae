"""The episodes that the rules of the check play: with the oracle's answers, or with a fixed cycle of answers."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

from perdure.envs.environment import Environment
from perdure.envs.scripted import Answer, ScriptedEpisode, by_oracle, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS, Split

T = TypeVar("T")
EPISODES = 20
"""Episodes for each kind of answer, on dev seeds."""
PATIENCE_S = 5.0
"""How long a rule plays; then it reports what it has seen."""
MOST_CONSTANTS = 8
"""How many answers are tried as the only one."""

SCRIPT = ("1", "yes", "[1]", "up", "2")
OFFERED = re.compile(r"\[([^\[\]\n]{1,20})\]")


def sample_episodes(environment: Environment, seeds: Iterable[int]) -> list[ScriptedEpisode]:
    """Whole episodes of these seeds, as `script` answers."""
    scripted = script(environment)
    return [play_scripted(environment, seed, scripted) for seed in seeds]


def digest(environment: Environment) -> str:
    """A hash over whole episodes of a few seeds: equal wherever the environment behaves the same."""
    episodes = sample_episodes(environment, first_seeds("dev", 3))
    return sha256(json.dumps([[played.exchanges, played.last, played.rewards] for played in episodes]).encode()).hexdigest()


def longest_texts(environment: Environment) -> tuple[str, ...]:
    """The texts of the longest conversation of a few episodes, instructions and solved examples included."""
    played = sample_episodes(environment, in_time(first_seeds("dev", EPISODES)))
    most = max((episode.exchanges for episode in played), key=lambda exchanges: sum(len(observation) for observation, _ in exchanges))
    texts = [text for exchange in (*environment.examples, *most) for text in exchange]
    return (environment.instructions, *texts[:-1])


def script(environment: Environment) -> Answer:
    """The oracle if there is one, so that whole episodes are seen; otherwise a fixed cycle of answers."""
    if has_oracle(environment):
        return by_oracle
    return lambda observation, env: SCRIPT[len(observation) % len(SCRIPT)]


def common_answers(episodes: Iterable[ScriptedEpisode]) -> list[str]:
    """The most frequent answers, and those that first observations show in square brackets."""
    counts = Counter[str]()
    for played in episodes:
        counts.update({f"[{text}]" for text in OFFERED.findall(played.exchanges[0][0])} | {action for _, action in played.exchanges})
    return [text for text, _ in counts.most_common(MOST_CONSTANTS)]


def in_time(items: Sequence[T], seconds: float = PATIENCE_S) -> Iterator[T]:
    """These items while there is time; the first two in any case."""
    until = time.monotonic() + seconds
    for n, item in enumerate(items):
        if n >= 2 and time.monotonic() > until:
            return
        yield item


def first_seeds(split: Split, count: int) -> Sequence[int]:
    return SPLITS[split][:count]
