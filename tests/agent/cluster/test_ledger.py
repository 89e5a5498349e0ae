"""What the journal does with what players say: once, twice, too late, and after it was started anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.cluster.players_side import BASE_HASH, Table, bringing, ending, plan, refusal, saying, starting, table_in, turn

from perdure.agent.cluster.journal.known_players import PlayerFenced, PlayerGone
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure
from perdure.memory.leases import BootClock
from perdure.memory.processes import events, pause, resume
from perdure.memory.records import VersionRef
from perdure.memory.tasks import get_task
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.upkeep.integrity import check


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    with table_in(tmp_path) as table:
        yield table


def test_episodes_are_in_the_store_as_they_were_sampled_though_every_message_came_twice(table: Table) -> None:
    player = table.hello()
    [lease] = table.lease(player)
    episodes = table.twice("start", starting(player, [plan(lease, member) for member in (0, 1)]))["episodes"]
    first = turn(0)
    second = turn(1, first)
    table.twice("turns", saying(player, [(episode, 0, first) for episode in episodes]))
    table.twice("turns", saying(player, [(episode, 1, second) for episode in episodes]))
    table.twice("finish", ending(player, episodes))
    table.twice("end-task", bringing(lease, "finish"))
    for episode in episodes:
        stored = get_episode(table.store, episode)
        assert (stored.state, stored.task, stored.total_reward) == ("completed", lease.subject, 1.0)
        assert [one.prompt_ids for one in stored.turns] == [first.prompt_ids, second.prompt_ids]
        assert [one.action_ids for one in stored.turns] == [first.action_ids, second.action_ids]
        assert [one.logprobs for one in stored.turns] == [first.logprobs, second.logprobs]
        assert stored.turns[0].observation == "observation 0 ?"
    assert get_task(table.store, lease.subject).task.state == "done"
    assert table.store.rows("SELECT count(*) FROM episode")[0][0] == 2


def test_the_same_message_with_other_content_is_refused(table: Table) -> None:
    player = table.hello()
    [lease] = table.lease(player)
    [episode] = table.ask("start", starting(player, [plan(lease)]))["episodes"]
    assert isinstance(refusal(table, "start", starting(player, [plan(lease, seed=4)]), again=True), RuntimeFailure)
    table.ask("turns", saying(player, [(episode, 0, turn(0))]))
    assert "is another one" in str(refusal(table, "turns", saying(player, [(episode, 0, turn(0, reward=0.75))]), again=True))
    assert "out of order" in str(refusal(table, "turns", saying(player, [(episode, 0, turn(0))])))
    table.ask("finish", ending(player, [episode]))
    assert "completed already" in str(refusal(table, "finish", ending(player, [episode], reward=2.0), again=True))
    assert len(get_episode(table.store, episode).turns) == 1


def test_a_journal_that_was_started_anew_goes_on_with_the_episodes_in_play(table: Table) -> None:
    player = table.hello()
    [lease] = table.lease(player)
    [episode] = table.ask("start", starting(player, [plan(lease)]))["episodes"]
    first = turn(0)
    second = turn(1, first)
    table.ask("turns", saying(player, [(episode, 0, first)]))
    table.start_again()
    assert table.ask("turns", saying(player, [(episode, 0, first)]), again=True) == {}, "its answer was lost with the process"
    table.ask("turns", saying(player, [(episode, 1, second)]))
    table.start_again()
    assert table.ask("turns", saying(player, [(episode, 1, second)]), again=True) == {}
    table.ask("finish", ending(player, [episode]))
    table.start_again()
    table.ask("finish", ending(player, [episode]), again=True)
    table.ask("end-task", bringing(lease, "finish"))
    table.start_again()
    assert isinstance(refusal(table, "end-task", bringing(lease, "finish"), again=True), PlayerGone), "it holds nothing: it says hello"
    assert [one.prompt_ids for one in get_episode(table.store, episode).turns] == [first.prompt_ids, second.prompt_ids]


def test_a_silent_player_loses_its_leases_and_writes_nothing_any_more(table: Table) -> None:
    player, other = table.hello(), table.hello()
    [lease] = table.lease(player)
    [episode] = table.ask("start", starting(player, [plan(lease)]))["episodes"]
    table.ask("turns", saying(player, [(episode, 0, turn(0))]))
    for _ in range(3):
        table.pass_s(4)
        table.ask("ping", {"player": other, "doing": "playing"})
    assert get_episode(table.store, episode).state == "aborted"
    assert isinstance(refusal(table, "turns", saying(player, [(episode, 1, turn(1, turn(0)))])), PlayerGone)
    assert {found.subject for found in table.lease(other, most=9)} == {lease.subject, lease.subject + 1}, "they share what waits"
    assert len(get_episode(table.store, episode).turns) == 1, "what was acknowledged stays"
    assert [event.kind for event in events(table.store)] == ["player lost"]
    assert "silent for 10 s; 1 of its tasks" in events(table.store)[0].message
    assert isinstance(refusal(table, "ping", {"player": player, "doing": ""}), PlayerGone)


def test_a_player_that_died_while_the_journal_was_dead_is_found_silent_too(table: Table) -> None:
    player = table.hello()
    [lease] = table.lease(player)
    table.start_again()
    table.pass_s(12)
    assert get_task(table.store, lease.subject).task.state == "queued"
    assert [event.subject for event in events(table.store)] == [player]


def test_nobody_is_silent_while_the_journal_itself_was_stopped(table: Table) -> None:
    player = table.hello()
    table.lease(player)
    table.pass_s(1)
    table.time.now += 60.0
    table.pass_s(1)
    assert table.ask("ping", {"player": player, "doing": "playing"}) == {}


def test_a_lease_of_somebody_else_writes_nothing(table: Table) -> None:
    player, other = table.hello(), table.hello()
    [lease] = table.lease(player)
    [episode] = table.ask("start", starting(player, [plan(lease)]))["episodes"]
    assert isinstance(refusal(table, "turns", saying(other, [(episode, 0, turn(0))])), LeaseLost)
    assert isinstance(refusal(table, "finish", ending(other, [episode])), LeaseLost)
    assert isinstance(refusal(table, "start", starting(other, [plan(lease, 1)])), InputError)
    assert get_episode(table.store, episode).state == "running"


def test_tasks_of_an_answer_that_was_lost_are_leased_anew(table: Table) -> None:
    player = table.hello()
    [lost] = table.lease(player)
    [found] = table.lease(player)
    assert (found.subject, found.attempt) == (lost.subject, lost.attempt + 1)
    [more] = table.lease(player, holds=[found.subject])
    assert more.subject != found.subject
    assert get_task(table.store, found.subject).task.state == "leased"


def test_waiting_tasks_are_shared_among_all_players(table: Table) -> None:
    first, second = table.hello(), table.hello()
    assert len(table.lease(first, most=8)) == 1
    assert len(table.lease(second, most=8)) == 1


def test_nothing_is_leased_while_play_is_paused_and_a_shift_ends_when_another_version_serves(table: Table) -> None:
    player = table.hello()
    pause(table.store, "play", "a test")
    assert table.lease(player) == []
    resume(table.store, "play")
    assert table.ask("lease", {"player": player, "version": "v9", "holds": [], "most": 1})["over"] is True
    assert len(table.lease(player)) == 1


def test_a_player_that_serves_another_version_than_it_says_is_sent_away(table: Table) -> None:
    for n, said in enumerate(("other files", "another sampler", "other scores")):
        player = table.hello()
        [lease] = table.lease(player)
        if said == "other files":
            error = refusal(table, "start", starting(player, [plan(lease)], hash_="hash-of-another"))
        elif said == "another sampler":
            [episode] = table.ask("start", starting(player, [plan(lease)]))["episodes"]
            error = refusal(table, "turns", saying(player, [(episode, 0, turn(0, sampler=VersionRef("v1")))]))
            assert get_episode(table.store, episode).state == "aborted"
        else:
            loaded = {"version": "v0", "hash": BASE_HASH, "numerics": "transformers, cpu, float32", "scores": [-1.0, -2.0]}
            assert table.ask("loaded", {"player": table.hello(), **loaded}) == {}
            error = refusal(table, "loaded", {"player": player, **loaded, "scores": [-1.0, -2.01]})
        assert isinstance(error, PlayerFenced)
        task = get_task(table.store, lease.subject).task
        assert (task.state, task.error) == ("queued", None), "it is not the fault of its task"
        assert isinstance(refusal(table, "lease", {"player": player, "version": "v0", "holds": [], "most": 1}), PlayerFenced)
        assert [event.kind for event in events(table.store)] == ["player fenced"] * (n + 1)
    assert table.store.rows("SELECT count(*) FROM turn")[0][0] == 0


def test_another_program_or_model_is_refused_and_both_are_named(table: Table) -> None:
    with pytest.raises(InputError, match=r"the player has Perdure 9.9.9 \(protocol 1\), the head has Perdure|the head has"):
        table.hello(perdure="9.9.9")
    with pytest.raises(InputError, match=r"'tiny' has the hash hash-of-anot, that of the head \('tiny'\) hash-of-tiny"):
        table.hello(hash="hash-of-another")


def test_code_of_an_environment_that_differs_from_the_heads_is_refused(table: Table) -> None:
    player = table.hello()
    [lease] = table.lease(player)
    walk = plan(lease).environment
    assert table.ask("code", {"player": player, "environment": walk, "code": "one"}) == {}
    assert "two on the player's node, and one on the head" in str(
        refusal(table, "code", {"player": player, "environment": walk, "code": "two"})
    )
    assert isinstance(refusal(table, "start", starting(player, [plan(lease, code="two")])), InputError)
    assert table.ask("start", starting(player, [plan(lease, code="one")]))["episodes"]


def test_what_cannot_be_read_is_refused_and_changes_nothing(table: Table) -> None:
    player = table.hello()
    [lease] = table.lease(player)
    [episode] = table.ask("start", starting(player, [plan(lease)]))["episodes"]
    whole = saying(player, [(episode, 0, turn(0))])
    broken = [
        ("turns", {**whole.head, "turns": "x"}),
        ("turns", {**whole.head, "turns": [[episode]]}),
        ("turns", whole.head),
        ("finish", {"player": player, "endings": [[episode, "completed"]]}),
        ("start", {"player": player, "plans": [[1, 2]], "hashes": {}}),
        ("end-task", bringing(lease, "sell")),
        ("lease", {"player": player}),
    ]
    for path, head in broken:
        assert isinstance(refusal(table, path, head), InputError), (path, head)
    assert table.ask("turns", whole) == {}
    assert [finding for finding in check(table.store, BootClock()) if finding.level == "error"] == []
