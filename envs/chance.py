"""What an environment pays for no skill: the share of tasks that a constant or a random answer solves. Measured once, without a model.

Kinds of answers are compared on a few tasks each: always the same answer, a random one of those that other tasks need, a random word of
the observation. The best kind is then played on other tasks, so that the choice does not flatter it. Answers come from the oracle of the
environment, played on other tasks; without one from its solved examples and its texts: what stands after 'one of', in brackets or in
quotes, and numbers of a range, or else their words.
Left out: what the planner makes of it (`agent/planning/worth.py`).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from perdure.envs.environment import Environment, Exchange, Guarded
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.scripted import Answer, by_oracle, fixed, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS

SECONDS = 1.0
"""How long the measurement may take. One call of a sandboxed environment may take its own time limit beyond that."""
EPISODES = 64
"""At most, those of the oracle included."""
OF_ORACLE = 8
MOST_CONSTANTS = 6
FOR_A_CONSTANT, FOR_A_KIND = 2, 10
"""Tasks on which one constant, or one kind of random answers, is compared with the others."""
ENOUGH = 8
"""With fewer tasks left to measure the best kind, chance is not known."""

ONE_OF = re.compile(r"\bone of:?\s+([^.\n]+)", re.IGNORECASE)
RANGE = re.compile(r"(?:(?:between )(\d{1,6}) and |(\d{1,6})(?: to |-|\.\.))(\d{1,6})\b")
OFFERED = re.compile(r"\[[^\[\]\n]{1,20}\]")
QUOTED = re.compile(r"['\"`]([^'\"`\n]{1,20})['\"`]")
WORD = re.compile(r"[^\W_]+")
SEPARATOR = re.compile(r",|;|\bor\b|\band\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChanceLevel:
    """What was measured of an environment."""

    success: float | None
    """The share of tasks that the best answer without skill solved; None: not known, as for one that fails or is slow."""
    oracle: bool | None
    """Whether it has an `oracle()`; None: not known."""


class _TimeIsUp(Exception):
    """The measurement has taken as long as it may."""


def measure_chance(environment: Environment, *, seconds: float = SECONDS, episodes: int = EPISODES) -> ChanceLevel:
    """Play at most this many tasks, for at most about this long. A failure of the environment makes its level unknown, and no more."""
    limited = environment
    if environment.open_remote is None:
        limited = replace(environment, step_timeout_s=min(environment.step_timeout_s, seconds))
    trial = _Trial(limited, time.monotonic() + seconds, episodes)
    oracle = has_oracle(limited)
    try:
        return ChanceLevel(success=_best_share(trial, oracle), oracle=oracle)
    except _TimeIsUp:
        return ChanceLevel(success=None, oracle=oracle)
    except EnvironmentFault:
        return ChanceLevel(success=None, oracle=None)


class _Trial:
    """Episodes on fresh tasks, while there are time and episodes left."""

    def __init__(self, environment: Environment, until: float, episodes: int) -> None:
        self.environment = environment
        self.left = episodes
        self._until = until
        self._seeds = iter(SPLITS["dev"])

    def won(self, answer: Answer, times: int) -> list[bool]:
        """Whether each of the next `times` tasks, or of those that are left, was solved."""
        return [self.play(answer)[0] for _ in range(min(times, self.left))]

    def play(self, answer: Answer) -> tuple[bool, list[Exchange]]:
        """Whether the next task was solved, and its exchanges. Raises `_TimeIsUp` and `EnvironmentFault`."""

        def in_time(observation: str, env: Guarded) -> str:
            if time.monotonic() > self._until:
                raise _TimeIsUp
            return answer(observation, env)

        self.left -= 1
        played = play_scripted(self.environment, next(self._seeds), in_time)
        return played.success, list(played.exchanges)


def _best_share(trial: _Trial, oracle: bool) -> float | None:
    seen = [trial.play(by_oracle if oracle else fixed("1"))[1] for _ in range(OF_ORACLE)]
    answers = _by_frequency(action for exchanges in seen for _, action in exchanges) if oracle else _offered(trial.environment, seen)
    random = Random(0)
    kinds: list[tuple[float, Answer]] = []
    for text in answers[:MOST_CONSTANTS]:
        kinds.append((_share(trial.won(fixed(text), FOR_A_CONSTANT)), fixed(text)))
    for answer in (_any_of(answers, random), _word_of_observation(random)):
        kinds.append((_share(trial.won(answer, FOR_A_KIND)), answer))
    best, answer = max(kinds, key=lambda kind: kind[0])
    if not best:
        return 0.0
    won = trial.won(answer, trial.left)
    return _share(won) if len(won) >= ENOUGH else None


def _share(won: Sequence[bool]) -> float:
    return sum(won) / len(won) if won else 0.0


def _any_of(answers: Sequence[str], random: Random) -> Answer:
    return lambda observation, env: random.choice(answers)


def _word_of_observation(random: Random) -> Answer:
    return lambda observation, env: random.choice(WORD.findall(observation) or ["1"])


def _offered(environment: Environment, seen: Sequence[Sequence[Exchange]]) -> list[str]:
    """Without an oracle: the answers of the solved examples and those that the texts name, else the most frequent words of the texts."""
    texts = [environment.instructions, *(environment.first_message(exchanges[0][0]) for exchanges in seen if exchanges)]
    named = [*(action for _, action in environment.examples), *(choice for text in texts for choice in choices(text))]
    return _by_frequency(named or (word for text in texts for word in WORD.findall(text))) or ["1"]


def choices(text: str) -> list[str]:
    """The answers that a text names: a list after 'one of', brackets, quotes, and the numbers of a range."""
    listed = [part.strip(" .:'\"`") for found in ONE_OF.findall(text) for part in SEPARATOR.split(found)]
    ranged = [str(number) for one, other, high in RANGE.findall(text) for number in _some_of(int(one or other), int(high))]
    return [choice for choice in [*listed, *OFFERED.findall(text), *QUOTED.findall(text), *ranged] if choice]


def _some_of(low: int, high: int) -> range:
    """The numbers of a range, or some eleven of them."""
    return range(low, high + 1, max(1, (high - low) // 10))


def _by_frequency(texts: Iterable[str]) -> list[str]:
    return [text for text, _ in Counter(texts).most_common()]
