"""Lanes of the tree of versions."""

from __future__ import annotations

from perdure.agent.web.evidence.version_tree import MOST_LANES, TreeRow, version_tree


def row(name: str, lane: int, *, above: bool = False, through: tuple[int, ...] = (), down: int | None = None) -> TreeRow:
    return TreeRow(name=name, lane=lane, from_above=above, through=through, down=down)


def test_a_chain_is_one_lane() -> None:
    assert version_tree([("v2", "v1"), ("v1", "v0"), ("v0", None)]) == [
        row("v2", 0, down=0),
        row("v1", 0, above=True, down=0),
        row("v0", 0, above=True),
    ]


def test_siblings_share_the_lane_to_their_parent() -> None:
    assert version_tree([("v3", "v0"), ("v2", "v0"), ("v1", "v0"), ("v0", None)]) == [
        row("v3", 0, down=0),
        row("v2", 1, through=(0,), down=0),
        row("v1", 1, through=(0,), down=0),
        row("v0", 0, above=True),
    ]


def test_a_branch_comes_back_to_its_parent() -> None:
    assert version_tree([("v4", "v1"), ("v3", "v2"), ("v2", "v1"), ("v1", "v0"), ("v0", None)]) == [
        row("v4", 0, down=0),
        row("v3", 1, through=(0,), down=1),
        row("v2", 1, above=True, through=(0,), down=0),
        row("v1", 0, above=True, down=0),
        row("v0", 0, above=True),
    ]


def test_a_parent_that_is_not_shown_is_below_the_last_row() -> None:
    assert version_tree([("v9", "v3"), ("v8", "v2")]) == [row("v9", 0, down=0), row("v8", 1, through=(0,), down=1)]


def test_many_lanes_stay_within_the_drawing() -> None:
    rows = version_tree([(f"v{100 - n}", f"w{n}") for n in range(50)])
    assert max(row.lane for row in rows) == MOST_LANES - 1
    assert all(lane < MOST_LANES for row in rows for lane in row.through)
