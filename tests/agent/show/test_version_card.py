"""The README of an exported version tells the verdict that promoted it, or that none did."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.memory.everything import fill

from perdure.agent.show.version_card import version_card
from perdure.memory import versions
from perdure.memory.gates import gates_of
from perdure.memory.store import Store, create_store


@pytest.fixture
def full(tmp_path: Path) -> Store:
    store = create_store(tmp_path / "home")
    fill(store)
    return store


def card(store: Store, name: str, form: str = "merged", precision: str = "float32") -> str:
    return version_card(store, name, form=form, precision=precision, gguf=False, adapts="2 of 14 linear layers")


def test_a_promoted_version_carries_its_verdict(full: Store) -> None:
    text = card(full, "v1")
    version = versions.get_version(full, "v1")
    assert text.startswith("# v1\n")
    assert version.hash in text
    assert "sha256" in text
    (move,) = [move for move in versions.moves(full) if move.to_version == "v1" and move.kind == "promote"]
    assert f"in place of `{move.from_version}`: {move.reason}" in text
    gate = next(gate for gate in gates_of(full, "v1") if gate.id == move.gate)
    assert gate.result is not None
    assert f"Gate {gate.id}: **promote**. {gate.result.reason}" in text
    for name in gate.result.evidence.environments:
        assert f"| {name} |" in text


def test_versions_that_nothing_promoted_say_so(full: Store) -> None:
    assert "It is the base model: nothing promoted it." in card(full, "v0")
    assert "**It was never promoted** (" in card(full, "v2")
    assert "no gate has judged it" in card(full, "v3")


def test_a_person_s_promotion_is_told_apart(full: Store) -> None:
    versions.promote(full, "v3", "it reads | well\n# better")
    text = card(full, "v3", "peft")
    assert "in place of `v1`: it reads | well # better" in text
    assert "A person promoted it without a gate." in text
    assert "| adapts | 2 of 14 linear layers |" in text


def test_a_rounded_export_says_so(full: Store) -> None:
    assert "may differ a little" in card(full, "v1", precision="bfloat16")
    assert "may differ" not in card(full, "v1")
