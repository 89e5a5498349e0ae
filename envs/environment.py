"""An environment as Perdure plays it: a way to make it, what the policy is told, its limits and its scale of rewards.

The environment itself is a `gymnasium.Env` whose observations and actions are `str`. It may carry attributes such as `instructions` and
`turn_limit`, which are the defaults of its options, and a method `oracle()` that returns the right action for the present state.

A game with several seats says in `info["seat"]`, with each observation, whose turn it is and so who is told it: 0 is the seat that is
judged, whose reward and success the steps report; with the last step, `info["rewards"]` has the return of each seat. Its attribute
`opponent` names who plays the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.spaces import Text

if TYPE_CHECKING:
    from perdure.envs.guarded import Guarded

TextEnv = gymnasium.Env[str, str]
Exchange = tuple[str, str]
"""An observation and the action that answers it."""

OBSERVATION = "{observation}"
"""Its place in a template, and the template that adds nothing."""
DEFAULT_TURN_LIMIT = 20
DEFAULT_MAX_TOKENS = 32
DEFAULT_STEP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A source of tasks with its options. Two environments with different options are different environments."""

    name: str
    """Canonical: options sorted, those at their defaults left out."""
    make: Callable[[], TextEnv]
    """A fresh one for every episode, so that nothing is carried over."""
    instructions: str
    """What the policy is told once, as the system message; empty where the first observation says it all."""
    template: str = OBSERVATION
    """How the first observation is put to the policy; `{observation}` stands for it."""
    examples: tuple[Exchange, ...] = ()
    """Solved exchanges put before every task, as the policy reads them. The same for all tasks, so that their prompts share a prefix."""
    threshold: float = 1.0
    """Success is a return of at least this, where the environment does not say itself."""
    reward_low: float = 0.0
    reward_high: float = 1.0
    """The range of the return (not of one reward): it maps to scores 0 and 1."""
    turn_limit: int = DEFAULT_TURN_LIMIT
    max_tokens: int = DEFAULT_MAX_TOKENS
    """The longest answer of one turn, in tokens."""
    step_timeout_s: float = DEFAULT_STEP_TIMEOUT_S
    """How long making, reset or one step may take."""
    opponent: str = "serving"
    """Who plays the other seats of a game for several, where it says whose turn it is: `serving`, or a version's name."""
    apart: Callable[[], Guarded] | None = None
    """Opens an episode in another process, for an environment that is not trusted in this one; `make` then refuses."""

    def asked(self, observation: str) -> str:
        """What the policy reads where an episode begins with this observation."""
        return self.template.replace(OBSERVATION, observation)

    def judge(self, total_reward: float, stated: bool | None) -> tuple[bool, float]:
        """Success and score in [0, 1] of an episode: by what the environment stated (`info["success"]`), else by its return."""
        if stated is not None:
            return stated, float(stated)
        share = (total_reward - self.reward_low) / (self.reward_high - self.reward_low)
        return total_reward >= self.threshold, min(1.0, max(0.0, share))


class AnyText(Text):
    """Every string. Gymnasium's own `Text` holds neither spaces nor accents unless each character is listed."""

    def __init__(self, max_length: int = 1_000_000) -> None:
        super().__init__(max_length, min_length=0)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random word: a uniform length up to the maximum would be megabytes of noise."""
        return "".join(self.np_random.choice(self.character_list, size=int(self.np_random.integers(1, 9))))

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"
