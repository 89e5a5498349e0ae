"""The general prompts that come with Perdure: 128 of our own writing, eight of each of sixteen kinds, none of them a panel item.

They are prompts alone: what is learned from is the answer of a model. A job goes through all of them in an order of its own before any
comes again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from perdure.envs.seeds import place_in_order

FILE = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralPrompt:
    """One prompt, which takes one turn."""

    id: str
    """Its kind and a number: 'explain-3'."""
    prompt: str


@cache
def general_prompts() -> tuple[GeneralPrompt, ...]:
    """All of them, as they stand in the file."""
    return tuple(GeneralPrompt(**json.loads(line)) for line in FILE.read_text("utf-8").splitlines())


def in_turn(numbers: range, seed: int) -> list[GeneralPrompt]:
    """The prompts of these places in the endless order that a seed decides: each pass over all of them is shuffled anew."""
    prompts = general_prompts()
    chosen = []
    for n in numbers:
        number, place = divmod(n, len(prompts))
        chosen.append(_one_pass(seed, number)[place])
    return chosen


@cache
def _one_pass(seed: int, number: int) -> list[GeneralPrompt]:
    return sorted(general_prompts(), key=lambda one: place_in_order(seed, f"pass {number} over the general prompts", one.id))
