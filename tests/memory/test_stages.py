"""The stages of the stream as the store has them, and how far each is."""

from __future__ import annotations

from perdure.memory import tasks
from perdure.memory.stages import Stage, StageProgress, StageShare, list_stages, progress, set_stages, waiting
from perdure.memory.store import Store

ADD = "perdure:add"


def test_stages_come_back_as_they_were_written(store: Store) -> None:
    first = Stage(
        name="words — “first”",
        environments=(StageShare(name=ADD, weight=0.5, tasks=7), StageShare(name="perdure:copy-word?words=3")),
        members=4,
        tasks=9,
        order="shuffled",
        curriculum=True,
    )
    second = Stage(name="second", environments=(StageShare(name=ADD),), members=8)
    assert list_stages(store) == []
    set_stages(store, [first, second])
    assert list_stages(store) == [first, second]
    set_stages(store, [second])
    assert list_stages(store) == [second]


def test_a_stage_is_as_long_as_its_tasks_or_those_of_all_its_environments() -> None:
    def size(tasks: int, *budgets: int) -> int:
        shares = tuple(StageShare(name=f"perdure:e{n}", tasks=budget) for n, budget in enumerate(budgets))
        return Stage(name="one", environments=shares, members=1, tasks=tasks).size

    assert [size(0, 0), size(0, 5, 0), size(0, 5, 2), size(6, 5, 2), size(6, 0, 2)] == [0, 0, 7, 6, 6]


def test_progress_is_counted_by_stage_and_environment(store: Store, clock) -> None:
    tasks.add_tasks(store, ADD, [1], 1, "stream")
    tasks.add_tasks(store, ADD, [2, 3], 1, "stream", "first")
    tasks.add_tasks(store, ADD, [4], 1, "stream", "second")
    tasks.add_tasks(store, ADD, [5], 1, "person")
    leased = tasks.lease_tasks(store, "actor", 4, 60, clock)
    assert [task.seed for task, _ in leased] == [5, 1, 2, 3]
    tasks.finish_task(store, leased[1][1])
    tasks.finish_task(store, leased[2][1])
    tasks.retry_task(store, leased[3][1], "no")
    for _ in range(2):
        ((_, lease),) = tasks.lease_tasks(store, "actor", 1, 60, clock)
        tasks.retry_task(store, lease, "no")
    assert progress(store) == {
        (None, ADD): StageProgress(drawn=1, ended=1),
        ("first", ADD): StageProgress(drawn=2, ended=2),
        ("second", ADD): StageProgress(drawn=1, queued=1),
    }
    assert waiting(store) == 1
