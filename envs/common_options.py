"""Options that every environment has, in addition to its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from perdure.envs.environment import DEFAULT_MAX_TOKENS, DEFAULT_STEP_TIMEOUT_S, DEFAULT_TURN_LIMIT, OBSERVATION
from perdure.envs.environment_names import Options
from perdure.envs.guarded import MOST_REWARD
from perdure.memory.errors import InputError

MAX_SHOTS = 100

COMMON: Options = {
    "instructions": "",
    "template": OBSERVATION,
    "shots": 0,
    "examples": "",
    "turn_limit": DEFAULT_TURN_LIMIT,
    "max_tokens": DEFAULT_MAX_TOKENS,
    "threshold": 1.0,
    "reward_low": 0.0,
    "reward_high": 1.0,
    "step_timeout_s": DEFAULT_STEP_TIMEOUT_S,
}
"""With their defaults. An environment's own attribute of that name replaces the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """The common options of one environment, checked."""

    instructions: str
    template: str
    shots: int
    examples: str
    """The path of a file, or empty."""
    turn_limit: int
    max_tokens: int
    threshold: float
    reward_low: float
    reward_high: float
    step_timeout_s: float


def own_defaults(own: object) -> dict[str, object]:
    """The common options as an environment's own attributes set them, unchecked."""
    return {key: getattr(own, key, default) for key, default in COMMON.items()}


def check_common(name: str, values: Mapping[str, object]) -> CommonOptions:
    """The common options of the environment of this name. Raises `InputError` naming the wrong one."""
    options = CommonOptions(
        instructions=_text(name, "instructions", values["instructions"]),
        template=_text(name, "template", values["template"]),
        examples=_text(name, "examples", values["examples"]),
        shots=_whole(name, "shots", values["shots"], 0, MAX_SHOTS),
        turn_limit=_whole(name, "turn_limit", values["turn_limit"], 1, 2**31),
        max_tokens=_whole(name, "max_tokens", values["max_tokens"], 1, 2**31),
        threshold=_finite(name, "threshold", values["threshold"]),
        reward_low=_finite(name, "reward_low", values["reward_low"]),
        reward_high=_finite(name, "reward_high", values["reward_high"]),
        step_timeout_s=_finite(name, "step_timeout_s", values["step_timeout_s"]),
    )
    if OBSERVATION not in options.template:
        raise InputError(f"{name}: template={options.template!r} must contain {OBSERVATION}, which stands for the first observation")
    if not options.reward_low < options.reward_high:
        raise InputError(f"{name}: reward_low={options.reward_low} must be below reward_high={options.reward_high}")
    if not options.step_timeout_s > 0:
        raise InputError(f"{name}: step_timeout_s={options.step_timeout_s} must be above 0")
    return options


def _text(name: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}: {key}={value!r} must be text")
    return value


def _whole(name: str, key: str, value: object, lowest: int, highest: int) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise InputError(f"{name}: {key}={value!r} must be a whole number from {lowest} to {highest}")
    return value


def _finite(name: str, key: str, value: object) -> float:
    if not isinstance(value, Real) or not math.isfinite(value) or abs(float(value)) > MOST_REWARD:
        raise InputError(f"{name}: {key}={value!r} must be a finite number, at most {MOST_REWARD:g} above or below 0")
    return float(value)
