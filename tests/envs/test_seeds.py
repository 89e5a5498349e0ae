from __future__ import annotations

import pytest

from perdure.envs.seeds import SPLITS, check_seed, dev_seed, gate_seed, probe_seed, split_by_content, split_of, train_seed
from perdure.memory.errors import InputError


def test_the_splits_cover_32_bits_without_overlap() -> None:
    assert [seeds.start for seeds in SPLITS.values()] == [0, 2**30, 2**31]
    assert [seeds.stop for seeds in SPLITS.values()] == [2**30, 2**31, 2**32]


@pytest.mark.parametrize(("seed", "split"), [(0, "train"), (2**30 - 1, "train"), (2**30, "dev"), (2**31 - 1, "dev"), (2**31, "probe")])
def test_a_seed_belongs_to_the_split_of_its_range(seed: int, split: str) -> None:
    assert split_of(seed) == split


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_all_splits_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed {seed} is out of range"):
        split_of(seed)


def test_each_kind_of_seed_lies_in_its_own_split() -> None:
    for r in range(200):
        assert split_of(gate_seed(1, 2, "a", r)) == "probe"
        assert split_of(probe_seed(1, "a", r)) == "probe"
        assert split_of(dev_seed(1, "a", r)) == "dev"
        assert split_of(check_seed(1, 2, "a", r)) == "dev"
        assert split_of(train_seed(1, "a", r)) == "train"


def test_gate_seeds_depend_on_root_gate_environment_and_draw() -> None:
    base = gate_seed(1, 2, "a", 3)
    assert base == gate_seed(1, 2, "a", 3)
    others = [gate_seed(9, 2, "a", 3), gate_seed(1, 9, "a", 3), gate_seed(1, 2, "b", 3), gate_seed(1, 2, "a", 9), probe_seed(1, "a", 3)]
    assert len({base, *others}) == 6


def test_checks_of_a_job_have_dev_seeds_of_their_own() -> None:
    """A gate fixes from `dev_seed` who votes, which is to stay independent of the choice of the candidate's step."""
    of_gates = {dev_seed(1, "a", r) for r in range(1000)}
    of_jobs = [check_seed(1, job, "a", r) for job in range(10) for r in range(64)]
    assert len(set(of_jobs)) == len(of_jobs)
    assert not of_gates & set(of_jobs)
    assert len({check_seed(1, 2, "a", 3), check_seed(9, 2, "a", 3), check_seed(1, 2, "b", 3)}) == 3


def test_gate_seeds_stay_what_they_are() -> None:
    """They are written in stores: a change of the hash would make old evidence unrepeatable."""
    assert gate_seed(0, 1, "perdure:add", 0) == 2778847653


def test_content_is_split_eight_to_one_to_one() -> None:
    splits = [split_by_content(f"question {i}") for i in range(5000)]
    assert splits.count("train") / 5000 == pytest.approx(0.8, abs=0.02)
    assert splits.count("dev") / 5000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("probe") / 5000 == pytest.approx(0.1, abs=0.02)


def test_any_text_has_a_split() -> None:
    assert split_by_content("\ud800 é 答") in SPLITS
