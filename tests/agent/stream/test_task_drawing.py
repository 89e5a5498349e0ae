"""The stream: what is drawn, in which order, and that a restart changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from perdure.agent.config import Config
from perdure.agent.stream.task_drawing import FLOOR, Draw, Refilled, begun, learnability, next_draws, present, refill, stages_of
from perdure.envs.seeds import SPLITS, train_seed
from perdure.memory.environments import list_environments, register
from perdure.memory.errors import InputError
from perdure.memory.leases import BootClock
from perdure.memory.records import StageOrder
from perdure.memory.stages import Stage, StageProgress, StageShare, progress, waiting
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks, list_tasks
from perdure.memory.trajectories.episodes import RateRow

ADD, SORT, COPY = "perdure:add", "perdure:sort-numbers", "perdure:copy-word"
CLOCK = BootClock()


def stage(name: str = "one", *shares: StageShare, **settings: Any) -> Stage:
    return Stage(name=name, environments=shares or (StageShare(name=ADD), StageShare(name=SORT)), members=4, **settings)


def draws(stages: Sequence[Stage], n: int, rates: Mapping[str, RateRow] | None = None, root: int = 1) -> list[Draw]:
    """The first n, drawn one at a time, as after n restarts."""
    had: dict[tuple[str | None, str], StageProgress] = {}
    found: list[Draw] = []
    for _ in range(n):
        for draw in next_draws(stages, had, rates or {}, per_environment=1, waiting=0, root=root, room=1):
            key = draw.stage.name, draw.environment
            had[key] = StageProgress(drawn=had.get(key, StageProgress()).drawn + 1)
            found.append(draw)
    return found


def names(found: Sequence[Draw]) -> list[str]:
    return [draw.environment for draw in found]


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2), (3, 1, 1), (0.1, 0.2, 0.7), (5, 1, 1, 1, 0.5), (1, 1000), (20, *[1] * 20)])
def test_weights_are_kept_at_every_moment_but_for_a_task(weights: tuple[float, ...]) -> None:
    shares = [StageShare(name=f"perdure:e{n}", weight=weight) for n, weight in enumerate(weights)]
    counts = Counter[str]()
    for n, name in enumerate(names(draws([stage("one", *shares)], 400)), start=1):
        counts[name] += 1
        for share in shares:
            assert abs(counts[share.name] - n * share.weight / sum(weights)) <= 1.2, (n, share)


def test_environments_of_one_weight_take_turns() -> None:
    shares = [StageShare(name=name) for name in (ADD, SORT, COPY)]
    assert names(draws([stage("one", *shares)], 9)) == [ADD, SORT, COPY] * 3


def test_an_environment_that_is_added_later_gets_its_share_and_catches_nothing_up() -> None:
    had = {("one", ADD): StageProgress(drawn=1000), ("one", "perdure:gone"): StageProgress(drawn=501)}
    more = stage("one", StageShare(name=ADD), StageShare(name=SORT))
    found = next_draws([more], had, {}, per_environment=50, waiting=0, root=1)
    assert Counter(names(found)) == {ADD: 50, SORT: 50}


def test_the_budget_of_an_environment_is_kept_and_the_others_go_on_by_their_weights() -> None:
    shares = StageShare(name=ADD, tasks=3), StageShare(name=SORT, weight=2.0), StageShare(name=COPY)
    found = names(draws([stage("one", *shares, tasks=30)], 40))
    assert Counter(found) == {ADD: 3, SORT: 18, COPY: 9}
    assert ADD not in found[15:]


def test_stages_follow_each_other_and_each_ends_with_its_tasks_or_those_of_its_environments() -> None:
    stages = [
        stage("first", StageShare(name=ADD), tasks=2),
        stage("second", StageShare(name=ADD, tasks=1), StageShare(name=SORT, tasks=2)),
        stage("third", StageShare(name=COPY)),
    ]
    assert [one.size for one in stages] == [2, 3, 0]
    found = draws(stages, 8)
    assert [draw.stage.name for draw in found] == ["first"] * 2 + ["second"] * 3 + ["third"] * 3
    assert [draw.seed for draw in found if draw.environment == ADD] == [train_seed(1, ADD, n) for n in range(3)], (
        "the i-th on the whole stream"
    )
    assert draws(stages[:2], 9) == found[:5], "and then there is nothing more"


@pytest.mark.parametrize("order", ["interleaved", "shuffled", "sequential", "permuted"])
def test_the_same_seed_gives_the_same_stream_drawn_at_once_or_with_restarts(order: StageOrder) -> None:
    shares = [StageShare(name=f"perdure:e{n}", tasks=20 + n) for n in range(4)]
    stages = [stage("first", *shares, order=order), stage("second", *shares[:2])]
    one_by_one = draws(stages, 100)
    assert next_draws(stages, {}, {}, per_environment=1000, waiting=0, root=1, room=100) == one_by_one
    assert len(one_by_one) == 100
    other = draws(stages, 86, root=2)
    assert [draw.seed for draw in other] != [draw.seed for draw in one_by_one[:86]]
    assert Counter(names(other)) == Counter(names(one_by_one[:86])), "the budgets are the same"
    assert (names(other) != names(one_by_one[:86])) == (order in ("shuffled", "permuted")), "the seed decides these orders"


def test_a_sequence_plays_one_environment_after_the_other() -> None:
    shares = StageShare(name=ADD, tasks=3), StageShare(name=SORT, tasks=2), StageShare(name=COPY)
    assert names(draws([stage("one", *shares, order="sequential")], 7)) == [ADD] * 3 + [SORT] * 2 + [COPY] * 2
    limited = [StageShare(name=name, tasks=2) for name in (ADD, SORT, COPY)]
    orders = {tuple(names(draws([stage("one", *limited, order="permuted")], 6, root=root))[::2]) for root in range(40)}
    assert len(orders) == 6, "each order comes up under some seed"
    assert all(sorted(order) == sorted((ADD, SORT, COPY)) for order in orders)


def test_chance_keeps_to_the_weights() -> None:
    shares = StageShare(name=ADD, weight=3.0), StageShare(name=SORT)
    counts = Counter(names(draws([stage("one", *shares, order="shuffled")], 2000)))
    assert abs(counts[ADD] - 1500) < 4 * (2000 * 0.75 * 0.25) ** 0.5


def test_a_curriculum_draws_what_can_be_learned_and_starves_nothing() -> None:
    def rate(successes: int) -> RateRow:
        return RateRow(episodes=998, successes=successes, groups=100, mixed_groups=50)

    rates = {ADD: rate(998), SORT: rate(499)}
    assert (learnability(rates[ADD]), learnability(rates[SORT]), learnability(None)) == (FLOOR, 1.0, 1.0)
    shares = StageShare(name=ADD), StageShare(name=SORT), StageShare(name=COPY)
    counts = Counter(names(draws([stage("one", *shares, order="shuffled", curriculum=True)], 2100, rates)))
    for name, wanted in ((ADD, 100), (SORT, 1000), (COPY, 1000)):
        assert abs(counts[name] - wanted) < 4 * wanted**0.5, name
    assert Counter(names(draws([stage("one", *shares, order="shuffled")], 2100, rates)))[ADD] > 500, "rates count for nothing else"


def test_what_waits_and_the_room_bound_what_is_drawn() -> None:
    def drawn(wait: int, room: int | None) -> int:
        return len(next_draws([stage()], {}, {}, per_environment=3, waiting=wait, root=1, room=room))

    assert [drawn(0, None), drawn(4, None), drawn(6, None), drawn(9, None)] == [6, 2, 0, 0]
    assert [drawn(0, 3), drawn(0, 0), drawn(0, -2), drawn(5, 3)] == [3, 0, 0, 1]


def test_the_present_stage_and_those_before_it_have_begun() -> None:
    stages = [stage("first", tasks=2), stage("second", tasks=2)]
    assert present(stages, {}) == stages[0]
    assert begun(stages, {}) == (stages[0],)
    assert present(stages, {("first", ADD): StageProgress(drawn=1), ("first", "perdure:gone"): StageProgress(drawn=1)}) == stages[1]
    over = {("first", ADD): StageProgress(drawn=2), ("second", ADD): StageProgress(drawn=2)}
    assert present(stages, over) is None
    assert begun(stages, over) == tuple(stages)


def test_a_configuration_becomes_stages_with_canonical_names() -> None:
    table = {
        "name": "words",
        "environments": [ADD, {"name": f"{SORT}?shots=3", "options": {"numbers": 4}, "weight": 2, "tasks": 5}],
        "tasks": 9,
        "members": 2,
    }
    last = {"name": "last", "environments": [ADD]}
    config = Config.model_validate({"stream": {"stages": [table, last]}})
    canonical = {ADD: ADD, f"{SORT}?shots=3&numbers=4": f"{SORT}?numbers=4&shots=3"}
    assert config.stream.names == tuple(canonical)
    shares = StageShare(name=ADD), StageShare(name=f"{SORT}?numbers=4&shots=3", weight=2.0, tasks=5)
    assert stages_of(config, canonical) == (
        Stage(name="words", environments=shares, members=2, tasks=9),
        Stage(name="last", environments=(StageShare(name=ADD),), members=8),
    )
    with pytest.raises(InputError, match="stage 'words' names one environment twice"):
        stages_of(config, dict.fromkeys(canonical, ADD))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        yield store


def fill(store: Store, stages: Sequence[Stage], *, per_environment: int = 3, room: int | None = None) -> Refilled:
    def begin(stage: Stage) -> None:
        for share in stage.environments:
            register(store, share.name)

    return refill(store, stages, per_environment=per_environment, root=1, room=room, begin=begin)


def play_all(store: Store) -> None:
    for _, lease in lease_tasks(store, "actor:1", 99, 60, CLOCK):
        finish_task(store, lease)


def test_what_is_queued_is_a_mixture_that_says_which_stage_drew_it(store: Store) -> None:
    assert fill(store, [stage()]) == Refilled(added=6, ended=False)
    found = list_tasks(store)[::-1]
    assert [entry.task.environment for entry in found] == [ADD, SORT] * 3
    assert {(entry.task.members, entry.stage, entry.source) for entry in found} == {(4, "one", "stream")}
    assert all(entry.task.seed in SPLITS["train"] for entry in found)
    assert fill(store, [stage()]).added == 0


def test_the_stream_in_a_store_is_the_stream_that_the_seed_decides(store: Store) -> None:
    stages = [stage("first", StageShare(name=ADD), StageShare(name=SORT, weight=2.0), tasks=7, order="shuffled"), stage("second", tasks=9)]
    while not fill(store, stages, per_environment=2).ended:
        play_all(store)
    found = [(entry.stage, entry.task.environment, entry.task.seed) for entry in list_tasks(store)[::-1]]
    assert found == [(draw.stage.name, draw.environment, draw.seed) for draw in draws(stages, 99)]
    assert len(set(found)) == 16, "and it repeats no seed"


def test_tasks_of_persons_leave_the_stream_as_it_is(store: Store, tmp_path: Path) -> None:
    with create_store(tmp_path / "other") as other:
        fill(other, [stage()])
        alone = [entry.task.seed for entry in list_tasks(other)]
    register(store, ADD)
    add_tasks(store, ADD, [1, 2, 3], 1, "person")
    fill(store, [stage()])
    assert [entry.task.seed for entry in list_tasks(store) if entry.source == "stream"] == alone
    assert {entry.stage for entry in list_tasks(store) if entry.source == "person"} == {None}


def test_environments_of_a_stage_are_known_once_it_begins(store: Store) -> None:
    stages = [stage("first", StageShare(name=ADD), tasks=2), stage("second", StageShare(name=SORT), tasks=1)]
    fill(store, stages, room=1)
    assert [one.name for one in list_environments(store)] == [ADD]
    fill(store, stages)
    assert [one.name for one in list_environments(store)] == [ADD, SORT]


def test_a_stream_has_ended_once_its_last_stage_has_drawn_all(store: Store) -> None:
    stages = [stage("only", tasks=5)]
    assert [fill(store, stages), fill(store, stages)] == [Refilled(added=5, ended=False), Refilled(added=0, ended=True)]
    assert waiting(store) == 5
    assert not fill(store, [*stages, stage("more")]).ended, "another stage goes on"


def test_tasks_from_before_there_were_stages_count_for_seeds_and_for_no_stage(store: Store) -> None:
    register(store, ADD)
    add_tasks(store, ADD, [train_seed(1, ADD, 0)], 4, "stream")
    fill(store, [stage("one", StageShare(name=ADD), tasks=2)])
    assert [entry.task.seed for entry in list_tasks(store)[::-1]] == [train_seed(1, ADD, n) for n in range(3)]
    assert {key: one.drawn for key, one in progress(store).items()} == {(None, ADD): 1, ("one", ADD): 2}
