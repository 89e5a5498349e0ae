"""Options in small classes, and the table of learners beside them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from perdure.learners.loops.learner_table import LEARNERS
from perdure.learners.option_parsing import every_option, option_entries, parse_options, read_by, readers_of
from perdure.learners.options import OWN, SHARED, GrpoOptions, LearnOptions, SdftOptions
from perdure.memory.errors import InputError


def test_every_learner_has_its_function_and_its_options() -> None:
    assert list(LEARNERS) == list(OWN)


def test_no_class_of_options_has_more_than_ten() -> None:
    assert all(len(group.model_fields) <= 10 for group in (*SHARED, *OWN.values()))
    assert len(fields(LearnOptions)) == len(SHARED) + 1


def test_an_option_of_several_learners_is_the_same_in_each() -> None:
    found: dict[str, set[str]] = {}
    for group in (*SHARED, *OWN.values()):
        for name, field in group.model_fields.items():
            found.setdefault(field.alias or name, set()).add(repr(field))
    assert {name for name, forms in found.items() if len(forms) > 1} == set()


def test_every_option_is_read_by_some_learner_and_listed_once() -> None:
    names = [entry.name for entry in option_entries()]
    assert len(names) == len(set(names))
    assert set(names) == set(every_option({}))
    assert all(readers_of(name) for name in names)
    assert readers_of("lr") == list(OWN)
    assert readers_of("variant") == ["grpo"]


@pytest.mark.parametrize("learner", OWN)
def test_a_learner_takes_its_own_options_and_no_others(learner: str) -> None:
    every = every_option({})
    own = read_by(learner, every)
    assert parse_options(learner, own).flat() == own
    for name in every.keys() - own.keys():
        with pytest.raises(InputError, match=rf"option '{name}' belongs to .*: {learner} does not read it"):
            parse_options(learner, {name: every[name]})


def test_the_options_of_another_learner_are_at_their_defaults() -> None:
    grpo = parse_options("grpo", {"variant": "dapo"})
    assert grpo.of(GrpoOptions).variant == "dapo"
    assert grpo.of(SdftOptions) == SdftOptions()
    assert parse_options("sft", {}).of(GrpoOptions).variant == "centred"


@pytest.mark.processes
def test_options_load_no_torch() -> None:
    asked = "import sys, perdure.learners.option_parsing; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
