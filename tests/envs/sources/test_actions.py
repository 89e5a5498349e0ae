from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.utils.env_checker import data_equivalence

from perdure.envs.environment import AnyText
from perdure.envs.sources.actions import Names, NoAnswer, answer, check_names, how_to_answer, parse
from perdure.memory.errors import InputError

MOVES = ("left", "stay put", "right")
SPACES: list[tuple[Space[Any], Names]] = [
    (Discrete(3), MOVES),
    (Discrete(3, start=-1), ()),
    (Discrete(500), ()),
    (MultiDiscrete([3, 2, 5]), ()),
    (MultiDiscrete(np.array([[3, 2], [5, 4]]), start=np.array([[1, 0], [-2, 7]])), ()),
    (MultiBinary(4), ()),
    (MultiBinary((2, 3)), ()),
    (Box(-2.0, 2.0, (1,)), ()),
    (Box(0.0, 1.0, ()), ()),
    (Box(-np.inf, np.inf, (2, 2), np.float64), ()),
    (Box(0.0, np.inf, (3,), np.float16), ()),
    (Box(np.array([0, -5]), np.array([3, 5]), dtype=np.int8), ()),
    (Text(6), ()),
    (Tuple((Discrete(3), Box(-1.0, 1.0, (2,)))), (MOVES, ())),
    (Tuple((Text(5, charset="a;[ {\n"), Discrete(2))), ()),
    (Tuple((Discrete(2),)), ()),
    (Dict(move=Discrete(3), power=Box(0.0, 1.0, ())), {"move": MOVES}),
    (Dict({"a key: with; signs": Text(9, charset='xyz:;"\\ '), "to": Discrete(3)}), {"to": MOVES}),
    (Dict(hand=Dict(card=Discrete(9), held=MultiBinary((2, 2))), then=Tuple((Discrete(3), Text(4)))), {"then": (MOVES, ())}),
    (Tuple((Tuple((Discrete(2), Discrete(2))), Dict(aim=Box(-1.0, 1.0, (2, 1))))), ()),
]
"""Every kind of space, simple and nested, with and without names."""


@pytest.mark.parametrize(("space", "names"), SPACES, ids=str)
def test_what_is_answered_is_read_as_it_was_meant(space: Space[Any], names: Names) -> None:
    check_names(space, names)
    space.seed(7)
    for _ in range(300):
        value = space.sample()
        read = parse(space, answer(space, value, names), names)
        assert data_equivalence(value, read)
        assert space.contains(read)


@pytest.mark.parametrize(("space", "names"), [each for each in SPACES if not isinstance(each[0], Text)], ids=str)
@pytest.mark.parametrize(
    "text", ["", "fly", "{", "[" * 100_000, '{"a": ' * 100_000, "9" * 5000, "1e400", "nan", "ответ 🙂", "1; 2; 3; 4; 5; 6"]
)
def test_anything_else_is_refused_with_how_to_answer(space: Space[Any], names: Names, text: str) -> None:
    with pytest.raises(NoAnswer) as refusal:
        parse(space, text, names)
    assert str(refusal.value).endswith(how_to_answer(space, names))
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("text", "place"), [("left", 0), (" Left. ", 0), ("**LEFT**", 0), ("stay  put", 1), ("2", 2), ("[2]", 2), ("+2", 2), ('"right"', 2)]
)
def test_a_choice_is_a_number_or_a_name(text: str, place: int) -> None:
    assert parse(Discrete(3), text, MOVES) == place


@pytest.mark.parametrize("text", ["3", "-1", "1.0", "go left", "leftright", "٢", "1 2", "0x1", "1_0"])
def test_what_is_no_choice(text: str) -> None:
    with pytest.raises(NoAnswer, match=r"does not fit\. Reply with only one of left, stay put, right\.$"):
        parse(Discrete(3), text, MOVES)


def test_numbers_begin_where_the_space_begins() -> None:
    assert [parse(Discrete(3, start=5), text, MOVES) for text in ("5", "7", "left", "right")] == [5, 7, 5, 7]
    with pytest.raises(NoAnswer):
        parse(Discrete(3, start=5), "0")


@pytest.mark.parametrize("text", ["1 2 0", "1, 2, 0", "1,2,0", "[1, 2, 0]", "(1 2 0).", "1\n2\n0", "[[1, 2], [0]]", " 1  2\t0 "])
def test_numbers_stand_between_spaces_or_commas(text: str) -> None:
    assert parse(MultiDiscrete([3, 3, 3]), text).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("space", "text", "reason"),
    [
        (MultiDiscrete([3, 2]), "1 2", "'2' is out of bounds"),
        (MultiDiscrete([3, 2]), "1", "'1' holds 1, not 2 numbers"),
        (MultiDiscrete([3, 2]), "1.0 1", "'1.0' is no whole number"),
        (MultiBinary(2), "1 -1", "'-1' is out of bounds"),
        (Box(-2.0, 2.0, (1,)), "2.5", "'2.5' is out of bounds"),
        (Box(-np.inf, np.inf, (1,)), "1e300", "'1e300' is out of bounds"),
        (Box(-np.inf, np.inf, (1,)), "inf", "'inf' is no number"),
        (Box(0, 255, (1,), np.uint8), "256", "'256' is out of bounds"),
        (Box(0.0, 1.0, (1,)), "0.5 or so", "'0.5 or so' holds 3, not 1 numbers"),
        (Box(0.0, 1.0, (1,)), "x" * 100, f"'{'x' * 40}…' is no number"),
    ],
)
def test_nothing_is_clipped(space: Space[Any], text: str, reason: str) -> None:
    with pytest.raises(NoAnswer) as refusal:
        parse(space, text)
    assert str(refusal.value) == f"{reason}. {how_to_answer(space)}"


def test_a_bound_is_within_bounds() -> None:
    assert parse(Box(np.float32(0.1), np.float32(0.7), (2,)), "0.1 0.7").tolist() == pytest.approx([0.1, 0.7])


STEER = Dict(move=Discrete(3), power=Box(0.0, 1.0, ()))
NAMES = {"move": MOVES}


@pytest.mark.parametrize(
    "text",
    [
        "move: left; power: 0.5",
        "power: .5; move: 0",
        "move: Left\npower: 0.5",
        "move: left; power: 0.5;",
        '{"move": "left", "power": 0.5}',
        ' {"power": "0.5", "move": 0} ',
    ],
)
def test_a_dictionary_is_given_by_keys_or_as_json(text: str) -> None:
    assert parse(STEER, text, NAMES) == {"move": 0, "power": 0.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("move: left", "'power' is missing"),
        ("move: left; power: 1; speed: 3", "'speed' is none of its keys"),
        ("move: left; move: right; power: 1", "it gives a key twice"),
        ('{"move": 0, "move": 1, "power": 1}', "it gives a key twice"),
        ("left; 0.5", "'left' is none of its keys"),
        ('{"move": [0], "power": 1}', r"'\[\"0\"\]' is neither text nor a number"),
        ('{"move": true, "power": 1}', "'true' is neither text nor a number"),
        ('{"move": 0, "power": NaN}', "'NaN' is no number"),
        ('{"move": 0', "it is no JSON"),
    ],
)
def test_what_is_no_dictionary(text: str, reason: str) -> None:
    with pytest.raises(NoAnswer, match=reason):
        parse(STEER, text, NAMES)


def test_a_part_with_parts_of_its_own_is_json() -> None:
    space = Dict(hand=Dict(card=Discrete(9)), held=MultiBinary((2, 2)))
    read = parse(space, '{"hand": {"card": 3}, "held": [[0, 1], [1, 0]]}')
    assert (read["hand"], read["held"].tolist()) == ({"card": 3}, [[0, 1], [1, 0]])
    assert parse(space, 'hand: {"card": 3}; held: 0 1 1 0')["hand"] == {"card": 3}
    assert parse(Tuple((Text(5), Discrete(2))), 'a "b"; 1') == ('a "b"', 1)


@pytest.mark.parametrize(
    ("space", "names", "line"),
    [
        (Discrete(3), MOVES, "one of left, stay put, right"),
        (Discrete(2), (), "one of 0, 1"),
        (Discrete(500), (), "a number from 0 to 499"),
        (MultiBinary(4), (), "4 whole numbers with spaces between them, each from 0 to 1"),
        (MultiDiscrete([3, 2]), (), "2 whole numbers with spaces between them, from 0 to 2, from 0 to 1"),
        (Box(-2.0, 2.0, (1,)), (), "a number from -2 to 2"),
        (Box(-np.inf, np.inf, (2,)), (), "2 numbers with spaces between them, each of any size"),
        (STEER, NAMES, "move: one of left, stay put, right; power: a number from 0 to 1"),
        (Tuple((Discrete(2), Text(5))), (), "one of 0, 1; then any text, with semicolons between them"),
        (Dict(a=Tuple((Discrete(2), MultiBinary(2)))), (), 'JSON: {"a": [one of 0, 1, [2 whole numbers, each from 0 to 1]]}'),
    ],
)
def test_how_to_answer_is_one_line(space: Space[Any], names: Names, line: str) -> None:
    assert how_to_answer(space, names) == f"Reply with only {line}."


def test_text_goes_through_as_it_is() -> None:
    assert parse(AnyText(), " {any; thing}. ") == " {any; thing}. "


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (Discrete(3), ("left", "right")),
        (Discrete(2), ("left", "LEFT.")),
        (Discrete(2), ("1", "0")),
        (Discrete(2), ("left", 7)),
        (MultiBinary(2), ("on", "off")),
        (STEER, {"moves": MOVES}),
        (Tuple((Discrete(3), Discrete(3))), (MOVES,)),
    ],
)
def test_names_that_do_not_fit_are_refused(space: Space[Any], names: Names) -> None:
    with pytest.raises(InputError, match="do not fit"):
        check_names(space, names)
