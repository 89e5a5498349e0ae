"""What `perdure probe` refuses before it plays."""

from __future__ import annotations

from pathlib import Path

from tests.agent.conftest import Call


def test_several_greedy_answers_to_a_seed_are_refused(perdure: Call, home: Path) -> None:
    refused = perdure("probe", "v1", "--samples", "4")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "perdure: --samples 4: greedy answers to a seed are all the same; give --temperature too, such as 1\n"
