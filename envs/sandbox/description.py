"""The description of an environment that its host sends: all of it but what can only be called in the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from perdure.envs.environment import Environment, Exchange, Guarded, TextEnv
from perdure.envs.sandbox.wire import WireDocumentError, count_field, float_field, list_field, text_field
from perdure.memory.json_value import JsonObject, JsonValue

MOST_CODE = 200
"""Characters."""


def write_description(environment: Environment) -> JsonObject:
    return {
        "name": environment.name,
        "instructions": environment.instructions,
        "template": environment.template,
        "examples": [[asked, answered] for asked, answered in environment.examples],
        "threshold": environment.threshold,
        "reward_low": environment.reward_low,
        "reward_high": environment.reward_high,
        "turn_limit": environment.turn_limit,
        "max_tokens": environment.max_tokens,
        "step_timeout_s": environment.step_timeout_s,
        "opponent": environment.opponent,
        "code": environment.code,
    }


def read_description(document: JsonObject, make: Callable[[], TextEnv], open_remote: Callable[[], Guarded]) -> Environment:
    return Environment(
        name=text_field(document, "name"),
        make=make,
        instructions=text_field(document, "instructions"),
        template=text_field(document, "template"),
        examples=tuple(_exchange(pair) for pair in list_field(document, "examples")),
        threshold=float_field(document, "threshold"),
        reward_low=float_field(document, "reward_low"),
        reward_high=float_field(document, "reward_high"),
        turn_limit=count_field(document, "turn_limit"),
        max_tokens=count_field(document, "max_tokens"),
        step_timeout_s=float_field(document, "step_timeout_s"),
        opponent=text_field(document, "opponent"),
        code=_code(text_field(document, "code")),
        open_remote=open_remote,
    )


def _code(text: str) -> str:
    if len(text) > MOST_CODE or not text.isprintable():
        raise WireDocumentError(f"{text!r:.40} is not what the code of an environment can be")
    return text


def _exchange(pair: JsonValue) -> Exchange:
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise WireDocumentError(f"{pair!r:.40} is not an observation with its action")
    return cast("Exchange", tuple(pair))
