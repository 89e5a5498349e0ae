"""Which seeds may be trained on and which may only be probed: disjoint by construction.

    train  [0, 2**30)        played by the stream and the learners
    dev    [2**30, 2**31)    for choices (reference scores, ceilings, the step of a learning job that becomes its candidate)
    probe  [2**31, 2**32)    played by the gate, fresh for every gate

Different seeds can still pose the same question, if an environment has few of them. The built-in ones therefore also split by content:
`split_by_content` sends each question to one split, and a seed draws only questions of its own split.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

from perdure.memory.errors import InputError

Split = Literal["train", "dev", "probe"]

SPLITS: dict[Split, range] = {"train": range(2**30), "dev": range(2**30, 2**31), "probe": range(2**31, 2**32)}


def split_of(seed: int) -> Split:
    """The split that a seed belongs to. Raises `InputError` for a seed outside all of them."""
    for split, seeds in SPLITS.items():
        if seed in seeds:
            return split
    raise InputError(f"seed {seed} is out of range: seeds are 0 to {2**32 - 1}, and those for training are below {2**30}")


def split_by_content(text: str) -> Split:
    """The split that a question belongs to, by its text alone: 80 % train, 10 % dev, 10 % probe."""
    share = _hash("content", text) % 10
    return "train" if share < 8 else "dev" if share == 8 else "probe"


def gate_seed(root: int, gate_id: int, environment: str, r: int) -> int:
    """The probe seed of draw `r` in one gate: H(root, gate, environment, r). Every gate and every environment has its own."""
    return _pick("probe", "gate", root, gate_id, environment, r)


def probe_seed(root: int, environment: str, r: int) -> int:
    """The probe seed of draw `r` outside any gate."""
    return _pick("probe", "probe", root, environment, r)


def dev_seed(root: int, environment: str, r: int) -> int:
    """The dev seed of draw `r`."""
    return _pick("dev", "dev", root, environment, r)


def check_seed(root: int, job: int, environment: str, r: int) -> int:
    """The dev seed of draw `r` in the checks of a learning job. Every job has its own, and `dev_seed` picks others."""
    return _pick("dev", "check", root, job, environment, r)


def train_seed(root: int, environment: str, i: int) -> int:
    """The train seed of draw `i`."""
    return _pick("train", "train", root, environment, i)


def answer_seed(seed: int, seat: int, turn: int) -> int:
    """In [0, 2**31): the seed of one answer in a repeatable episode, which has this seed itself."""
    return _hash("answer", seed, seat, turn) % 2**31


def draw_chance(root: int, stage: str, n: int) -> float:
    """A number in [0, 1) that decides draw `n` of a stage of the stream with a drawn order."""
    return _hash("stage", root, stage, n) / 2**64


def place_in_order(root: int, stage: str, environment: str) -> int:
    """The place of an environment in a stage whose order the seed decides: the lowest comes first."""
    return _hash("order", root, stage, environment)


def _pick(split: Split, *key: str | int) -> int:
    seeds = SPLITS[split]
    return seeds[_hash(*key) % len(seeds)]


def _hash(*key: str | int) -> int:
    return int.from_bytes(sha256("\0".join(str(part) for part in key).encode("utf-8", "surrogatepass")).digest()[:8], "big")
