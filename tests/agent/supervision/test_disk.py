"""What there is no room for, and how that is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.agent.config import DiskSection
from perdure.agent.supervision.disk import GIB, DiskGauge, DiskLack, DiskUse, disk_lack, free_bytes, size_bytes

ALL = DiskLack()


def stops(settings: DiskSection, *, home: float = 0.0, free: float = 100.0, before: DiskLack = ALL) -> str:
    found = disk_lack(settings, DiskUse(home_bytes=round(home * GIB), free_bytes=round(free * GIB)), before)
    return " and ".join(name for name, lack in (("learning", found.learn), ("play", found.play)) if lack)


@pytest.mark.parametrize(
    ("home", "stopped"),
    [(0.0, ""), (8.9, ""), (9.0, "learning"), (9.9, "learning"), (10.0, "learning and play"), (12.0, "learning and play")],
)
def test_a_budget_stops_learning_before_play(home: float, stopped: str) -> None:
    assert stops(DiskSection(budget_gib=10, floor_gib=0), home=home) == stopped
    assert stops(DiskSection(floor_gib=0), home=home) == ""


@pytest.mark.parametrize(
    ("free", "stopped"),
    [(100.0, ""), (4.0, ""), (3.9, "learning"), (2.0, "learning"), (1.9, "learning and play"), (0.0, "learning and play")],
)
def test_a_floor_stops_learning_before_play(free: float, stopped: str) -> None:
    assert stops(DiskSection(floor_gib=2), free=free) == stopped
    assert stops(DiskSection(floor_gib=0), free=free) == ""


def test_what_has_stopped_waits_for_a_little_more_room_than_it_stopped_at() -> None:
    stopped = DiskLack(learn="too little", play="too little")
    assert stops(DiskSection(budget_gib=10, floor_gib=0), home=9.6, before=stopped) == "learning and play"
    assert stops(DiskSection(budget_gib=10, floor_gib=0), home=9.4, before=stopped) == "learning"
    assert stops(DiskSection(budget_gib=10, floor_gib=0), home=8.5, before=stopped) == ""
    assert stops(DiskSection(floor_gib=1), free=1.04, before=stopped) == "learning and play"
    assert stops(DiskSection(floor_gib=1), free=1.06, before=stopped) == "learning"
    assert stops(DiskSection(floor_gib=1), free=2.11, before=stopped) == ""


def test_the_reason_says_the_numbers_and_what_to_do() -> None:
    found = disk_lack(DiskSection(budget_gib=10, floor_gib=1), DiskUse(home_bytes=round(9.5 * GIB), free_bytes=GIB // 2))
    assert found.learn == (
        "the home takes 9.5 GiB of its budget of 10 GiB: `perdure version gc` and `perdure store prune` make room, or raise disk.budget_gib"
    )
    assert found.play == "the disk of the home has 0.5 GiB free and needs 1 GiB: free some space, or lower disk.floor_gib"


def test_a_folder_is_added_up_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(100_000))
    (tmp_path / "d").write_bytes(b"x" * 50_000)
    (tmp_path / "link").symlink_to("/usr")
    assert 150_000 <= size_bytes(tmp_path) < 200_000
    assert size_bytes(tmp_path / "none") == 0
    assert free_bytes(tmp_path) > 0


def test_the_home_is_added_up_once_a_minute(tmp_path: Path) -> None:
    now = [1000.0]
    gauge = DiskGauge(tmp_path, DiskSection(budget_gib=1e-3, floor_gib=0), clock=lambda: now[0])
    assert gauge.look() == DiskLack()
    (tmp_path / "large").write_bytes(b"x" * 2 * 2**20)
    assert gauge.look() == DiskLack()
    now[0] += 61
    assert gauge.look().play is not None
    (tmp_path / "large").unlink()
    assert gauge.look().play is not None
    now[0] += 61
    assert gauge.look() == DiskLack()
