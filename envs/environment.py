"""An environment as Perdure plays it: how to make it, its instructions, its limits and its scale of rewards; and an episode of it.

The environment itself is a `gymnasium.Env` whose observations and actions are `str`. It may have attributes such as `instructions` and
`turn_limit`, which are the defaults of its options, and a method `oracle()` that returns the right action for the present state.

A game with several seats states in `info["seat"]`, with each observation, whose turn it is: that seat reads the observation. Seat 0 is
judged: the steps report its reward and its success. With the last step, `info["rewards"]` has the return of each seat. The game's
attribute `opponent` names who plays the other seats.

A task may have a system message of its own, in `info["instructions"]` of its reset: it replaces the environment's `instructions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
from gymnasium.spaces import Text

from perdure.memory.records import score_of_return

TextEnv = gymnasium.Env[str, str]
Info = dict[str, Any]
"""Gymnasium's `info`. Environments write it; `guarded.py` alone reads it, into a `StepOutcome`."""
ResetResult = tuple[str, Info]
StepResult = tuple[str, float, bool, bool, Info]
"""Observation, reward, terminated, truncated, info."""
Exchange = tuple[str, str]
"""An observation and the action that answers it."""

OBSERVATION = "{observation}"
"""The placeholder of a template, and the template that adds nothing."""
DEFAULT_TURN_LIMIT = 20
DEFAULT_MAX_TOKENS = 32
DEFAULT_STEP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """The result of one step, checked."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None
    """`info["success"]`; None if the environment does not state it."""
    invalid: str | None = None
    """Why the answer was not an action: `info["invalid_action"]`, a reason or True."""
    seat: int = 0
    """In a game for several players: whose turn it is now, from `info["seat"]`. `reward` and `success` are those of seat 0."""
    rewards: tuple[float, ...] = ()
    """At the end of a game for several players: the return of each seat, from `info["rewards"]`."""

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class Guarded(Protocol):
    """A fresh environment for one episode: `reset`, then `step` until it has ended, then `close`. Only methods that return something
    raise, and only `EnvironmentFault`.

    `begin` and `send` ask, `first` and `receive` wait: environments in processes of their own work at the same time.
    """

    @property
    def seat(self) -> int:
        """Whose turn it is in a game for several players; otherwise 0."""
        ...

    @property
    def instructions(self) -> str | None:
        """The system message of the task, from `info["instructions"]` of its reset; None: that of the environment."""
        ...

    def begin(self, seed: int) -> None:
        """Ask for the task of this seed."""
        ...

    def first(self) -> str:
        """Wait for its first observation."""
        ...

    def send(self, action: str) -> None:
        """Ask for a step."""
        ...

    def receive(self) -> StepOutcome:
        """Wait for the outcome of the step; its reward is a finite float."""
        ...

    def oracle(self) -> str:
        """The right action now, from the environment's own `oracle()`."""
        ...

    def close(self) -> None:
        """Close the environment. A failure is logged only: the result of the episode stands."""
        ...

    def reset(self, seed: int) -> str:
        """Begin, and wait for the first observation."""
        self.begin(seed)
        return self.first()

    def step(self, action: str) -> StepOutcome:
        """Act, and wait for the outcome."""
        self.send(action)
        return self.receive()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A source of tasks with its options. Two environments with different options are different environments."""

    name: str
    """Canonical: options sorted, without those at their defaults."""
    make: Callable[[], TextEnv]
    """Makes a fresh one for every episode, so that nothing is carried over."""
    instructions: str
    """The system message; empty if the first observation says it all."""
    template: str = OBSERVATION
    """What the policy reads at the beginning; `{observation}` stands for the first observation."""
    examples: tuple[Exchange, ...] = ()
    """Solved exchanges put before every task, as the policy reads them. The same for all tasks, so that their prompts share a prefix."""
    threshold: float = 1.0
    """Success is a return of at least this, if the environment does not state success itself."""
    reward_low: float = 0.0
    reward_high: float = 1.0
    """The range of the return (not of one reward): it maps to scores 0 and 1."""
    turn_limit: int = DEFAULT_TURN_LIMIT
    max_tokens: int = DEFAULT_MAX_TOKENS
    """The longest answer of one turn, in tokens."""
    step_timeout_s: float = DEFAULT_STEP_TIMEOUT_S
    """How long making, reset or one step may take."""
    opponent: str = "serving"
    """Who plays the other seats of a game for several players, if the game states whose turn it is: `serving`, or a version's name."""
    code: str = ""
    """What its code is (`source_code.py`); empty: not known."""
    open_remote: Callable[[], Guarded] | None = None
    """Opens an episode in another process, for an environment that is not trusted in this one; `make` then refuses."""

    def first_message(self, observation: str) -> str:
        """What the policy reads if an episode begins with this observation."""
        return self.template.replace(OBSERVATION, observation)

    def judge(self, total_reward: float, stated: bool | None) -> tuple[bool, float]:
        """Success and score in [0, 1] of an episode: from what the environment stated (`info["success"]`), else from its return."""
        if stated is not None:
            return stated, float(stated)
        return total_reward >= self.threshold, score_of_return(total_reward, self.reward_low, self.reward_high)


class AnyText(Text):
    """Every string. Gymnasium's own `Text` contains neither spaces nor accents unless each character is listed."""

    def __init__(self, max_length: int = 1_000_000) -> None:
        super().__init__(max_length, min_length=0)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random word: a uniform length up to the maximum would be megabytes of noise."""
        return "".join(self.np_random.choice(self.character_list, size=int(self.np_random.integers(1, 9))))

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"
