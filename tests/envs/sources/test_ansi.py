from __future__ import annotations

import random

import pytest

from perdure.envs.sources.ansi import unescaped


@pytest.mark.parametrize(
    ("rendered", "text"),
    [
        ("a\x1b[35m\x1b[43mY\x1b[0m\x1b[0mb\x1b[34;1mR\x1b[0m\x1b[2K\n", "a{[Y]}b(R)"),
        ("\x1b[101mx\x1b[m", "[x]"),
        ("\x1b[31mx\x1b[39my", "{x}y"),
        ("\x1b[31mred\x1b[32mgreen\x1b[0m", "red{green}"),
        ("x\x1b[0my\x1b[31mz", "xyz"),
        ("\x1b]0;a title\x07x\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        ("\x1bPdata\x1b\\x\x1b_more\x9cy\x1bXz\x9c", "xy"),
        ("\x9b31mx\x9d0;title\x9cy", "xy"),
        ("\x1b]never closed", "never closed"),
        ("\x1b(B\x1b=\x1b7x\x1bM", "x"),
        ("a\r\nb\tc\x08\x00\x7f\x85d\re", "a\nb\tcde"),
        ("\n\n  a  \n b \n\n", "  a  \n b"),
        ("\x1b", ""),
    ],
)
def test_escapes_and_control_characters_are_gone(rendered: str, text: str) -> None:
    assert unescaped(rendered) == text


def test_no_mixture_of_escapes_leaves_one() -> None:
    rng = random.Random(5)
    pieces = ["\x1b", "[", "]", "0", ";", "m", "31", "\x07", "\\", "\x9b", "\x9d", "\x9c", "x", "P", "\n", "\r"]
    for _ in range(3000):
        text = unescaped("".join(rng.choices(pieces, k=rng.randrange(1, 30))))
        assert not any((ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160 for letter in text), repr(text)


def test_a_megabyte_of_escapes_takes_no_time() -> None:
    for piece in ("\x1b]", "\x1b[1m", "\x9d", "\x1b[", "\x1b[31mx\x1b[0m"):
        assert "\x1b" not in unescaped(piece * (2**20 // len(piece)))
