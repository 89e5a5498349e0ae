from __future__ import annotations

import pytest

from perdure.envs.answers import bare, plain, same


@pytest.mark.parametrize("answer", ["blue", " Blue ", "blue.", '"Blue."', "[blue]", "**blue**", "(blue).", "“BLUE”\n", "`blue`"])
def test_wrapping_is_forgiven(answer: str) -> None:
    assert same(answer, "blue")


@pytest.mark.parametrize("answer", ["", "blue!", "the blue", "blue red", "blu", "blue..,", "[blue", "it is blue."])
def test_content_is_not_forgiven(answer: str) -> None:
    assert not same(answer, "blue")


def test_spaces_within_are_made_single_and_case_is_kept_by_bare() -> None:
    assert plain("12\t 47") == "12 47"
    assert bare(" [Accept]. ") == "Accept"


@pytest.mark.parametrize("answer", ["", ".", "[]", '""', "[.]", "  ", "*", "[[]]."])
def test_wrapping_alone_is_an_empty_answer(answer: str) -> None:
    assert plain(answer) in ("", "*")


def test_comparison_signs_survive() -> None:
    assert same("<", "<")
    assert same("[>]", ">")
    assert not same("<>", "<")
