from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, OneOf, Sequence, Text, Tuple

from perdure.envs.environment import AnyText
from perdure.envs.sources.spaces import refuse, written
from perdure.memory.errors import InputError


@pytest.mark.parametrize(
    ("space", "value", "text"),
    [
        (AnyText(), "as it is", "as it is"),
        (AnyText(), "\x1b]0;title\x07a\x1b[2Jb\0", "ab"),
        (Discrete(9), 7, "state 7"),
        (Discrete(9), np.int64(7), "state 7"),
        (Tuple((Discrete(9), Discrete(9))), (1, 2), "1; 2"),
        (Tuple((Discrete(9), Tuple((Discrete(9), Discrete(9))))), (1, (2, 3)), "1: 1\n2.1: 2\n2.2: 3"),
        (Dict(hand=MultiDiscrete([5, 5]), turn=Discrete(9)), {"turn": 3, "hand": np.array([1, 2])}, "hand: 1 2\nturn: 3"),
        (Dict(a=Dict(b=Discrete(3), c=Tuple((Discrete(3),)))), OrderedDict(a={"b": 1, "c": (2,)}), "a.b: 1\na.c.1: 2"),
        (Dict(board=MultiBinary((2, 2)), say=Text(9)), {"board": np.eye(2, dtype=np.int8), "say": "hi"}, "board:\n1 0\n0 1\nsay: hi"),
        (MultiBinary((2, 2, 2)), np.ones((2, 2, 2), np.int8), "1 1\n1 1\n\n1 1\n1 1"),
        (Box(-9, 9, (4,)), np.array([0.123456, -0.0, 2, 1e-7], np.float32), "0.1235 0 2 1e-07"),
        (Box(-np.inf, np.inf, (2,)), np.array([12345.6, 1e20]), "12346 1e+20"),
        (Box(-1.0, 1.0, ()), 0.5, "0.5"),
        (Box(0, 255, (2,), np.uint8), [1, 255], "1 255"),
    ],
)
def test_observations_are_written_out(space: Space[Any], value: Any, text: str) -> None:
    assert written(space, value) == text


class Mission(Space[str]):
    """As in minigrid: strings of a space of its own."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "go to the red ball"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


def test_strings_of_a_space_of_another_package_are_text() -> None:
    seen = Dict(direction=Discrete(4), image=Box(0, 255, (7, 7, 3), np.uint8), mission=Mission())
    refuse(seen, "minigrid", "observations")
    text = written(seen, {"direction": 1, "image": np.zeros((7, 7, 3), np.uint8), "mission": "go to the red ball"})
    assert text.endswith("mission: go to the red ball")


def test_parts_of_a_tuple_may_have_names() -> None:
    assert written(Tuple((Discrete(9), Discrete(2))), (7, 1), ("sum", "ace")) == "sum: 7\nace: 1"


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (AnyText(), b"bytes"),
        (AnyText(), None),
        (Discrete(9), "7"),
        (Discrete(9), b"7"),
        (Discrete(9), [7]),
        (MultiBinary(2), np.zeros(3)),
        (Box(0, 1, (2,)), np.array([b"a", b"b"])),
        (Box(0, 1, (2,)), [None, 1.0]),
        (Tuple((Discrete(2), Discrete(2))), (1,)),
        (Tuple((Discrete(2),)), 1),
        (Dict(a=Discrete(2)), {"a": 1, "b": 1}),
        (Dict(a=Discrete(2)), [1]),
        (Dict(a=AnyText()), {"a": b"x"}),
    ],
)
def test_what_is_no_value_of_its_space_is_an_error(space: Space[Any], value: Any) -> None:
    with pytest.raises(TypeError, match="the observation space has"):
        written(space, value)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (Box(0, 255, (210, 160, 3), np.uint8), "100800 numbers in a Box are too many: at most 160"),
        (Dict(board=MultiBinary(100), held=MultiBinary(61)), "161 numbers in a Dict are too many: at most 160"),
        (Sequence(Discrete(2)), "a Sequence has no fixed form"),
        (OneOf((Discrete(2), Discrete(3))), "a OneOf has no fixed form"),
        (Dict(a=Tuple((Graph(Discrete(2), None),))), "a Graph has no fixed form"),
        (Dict({1: Discrete(2)}), "keys that are not text"),
    ],
)
def test_what_cannot_be_text_is_refused_with_a_way_out(space: Space[Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"X has actions that cannot be text: .*{reason}.*py:package.module:Class"):
        refuse(space, "X", "actions")


def test_as_many_numbers_as_are_allowed_are_taken() -> None:
    refuse(Box(0, 1, (8, 16)), "X", "actions")
