from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tests.envs.tables import Nowhere, Promising, SecondBegins, SecondOnly, Table, Unpaid, table
from tests.fakes import ByteChat, ListJournal, ScriptedPolicy

from perdure.envs.environment import AnyText, Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Policy, PolicyError, Request, Sample
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import Journal, play
from perdure.envs.sources.textarena.scripted_opponents import random_mover
from perdure.memory import environments, jobs, leases, tasks, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.leases import BootClock
from perdure.memory.records import Episode, Lease, Purpose, Sampler, Turn, VersionRef
from perdure.memory.store import create_store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.episodes import get_episode, list_episodes, success_rates
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.upkeep import integrity as check

V0, V3 = VersionRef("v0"), VersionRef("v3")
LEASE = Lease(subject=7, owner="test", attempt=1)


def run(
    environment: Environment,
    policy: Policy,
    opponent: Policy | None = None,
    *,
    members: int = 1,
    journal: Journal,
    lease: Lease = LEASE,
    purpose: Purpose = "live",
    **settings: object,
) -> list[Episode]:
    """Play members of one group against a version; the same policy at all seats if no opponent is given."""

    def opponents(name: str) -> tuple[Sampler, Policy]:
        if name == "serving":
            return V0, opponent or policy
        if name == "v3" and opponent is not None:
            return V3, opponent
        raise UnknownError(f"no version {name}")

    attempts = [
        Attempt(environment=environment, seed=5, group="task-1", member=member, purpose=purpose, lease=lease) for member in range(members)
    ]
    values = {"temperature": 1.0, "width": 8, "context_limit": 9999, "opponents": opponents, **settings}
    return play(attempts, policy, ByteChat(), V0, journal, **values)  # type: ignore[arg-type]


def saying(number: str, sampler: Sampler = V0) -> ScriptedPolicy:
    return ScriptedPolicy(lambda text: number, sampler)


def turns_of(journal: ListJournal, id_: int) -> list[Turn]:
    return [turn for (played, _), turn in journal.played.items() if played == id_]


def test_each_seat_is_an_episode_of_its_own_and_sees_only_its_own_game() -> None:
    journal = ListJournal()
    [episode] = run(table(opponent="v3"), saying("5"), saying("2", V3), journal=journal)
    assert [(plan.group, plan.member, plan.seat, plan.sampler, plan.lease) for plan in journal.plans.values()] == [
        ("task-1", 0, 0, V0, LEASE),
        ("task-1/seat-1", 0, 1, V3, LEASE),
    ]
    assert (episode.id, episode.seat, len(episode.turns)) == (1, 0, 2)
    for id_, sampler, number in ((1, V0, "5"), (2, V3, "2")):
        mine, others = turns_of(journal, id_), turns_of(journal, 3 - id_)
        assert [(turn.sampler, turn.action) for turn in mine] == [(sampler, number)] * 2
        texts = [message.text for message in ByteChat().messages(mine[-1].prompt_ids)]
        seat = id_ - 1
        secret, other = mine[0].observation[:10], others[0].observation[:10]
        assert texts == ["Say a number.", f"{secret}, turn {seat}", number, f"{secret}, turn {seat + 2}"]
        assert secret != other
        before = mine[0].prompt_ids + mine[0].action_ids
        assert mine[1].prompt_ids[: len(before)] == before
        assert mine[1].shared == len(before)


def test_a_seat_is_rewarded_for_what_others_do_after_its_turn() -> None:
    journal = ListJournal()
    [episode] = run(table(), saying("5"), saying("2"), journal=journal)
    assert [turn.reward for turn in episode.turns] == [0.25, 1.25]
    assert [journal.played[1, n].reward for n in range(2)] == [0.25, 1.25]
    assert [journal.played[2, n].reward for n in range(2)] == [0.0, 0.0]
    assert [(ending.total_reward, ending.success) for ending in journal.endings.values()] == [(1.5, True), (0.0, False)]
    journal = ListJournal()
    [lost] = run(table(), saying("2"), saying("5"), journal=journal)
    assert (lost.total_reward, lost.success) == (0.5, False)
    assert [(ending.total_reward, ending.success) for ending in journal.endings.values()] == [(0.5, False), (1.0, True)]


def test_requests_of_one_round_are_one_batch_for_each_version() -> None:
    policy, other = saying("5"), saying("2", V3)
    run(table(opponent="v3"), policy, other, members=3, journal=ListJournal())
    assert [len(batch) for batch in policy.batches] == [3, 3]
    assert [len(batch) for batch in other.batches] == [3, 3]
    alone = saying("5")
    run(table(SecondBegins), alone, members=2, journal=ListJournal(), width=1)
    assert [len(batch) for batch in alone.batches] == [1] * 8


def test_against_itself_all_seats_are_one_batch() -> None:
    policy = saying("1")
    first, second = table(), table(SecondBegins)
    attempts = [Attempt(environment=one, seed=1, group=one.name, member=0, purpose="live", lease=LEASE) for one in (first, second)]
    play(
        attempts,
        policy,
        ByteChat(),
        V0,
        ListJournal(),
        temperature=1.0,
        width=4,
        context_limit=999,
        opponents=lambda name: (V0, policy),
    )
    assert [len(batch) for batch in policy.batches] == [2, 2, 2, 2]


def test_only_seat_0_is_returned_or_told_of() -> None:
    finished: list[Episode] = []
    episodes = run(table(SecondBegins), saying("3"), members=2, journal=ListJournal())
    assert run(table(SecondBegins), saying("3"), members=2, journal=ListJournal(), on_finish=finished.append) == []
    assert finished == episodes
    assert [(episode.member, episode.group, len(episode.turns)) for episode in episodes] == [(0, "task-1", 2), (1, "task-1", 2)]


def test_a_game_that_ends_before_the_policy_had_a_turn_counts_nowhere() -> None:
    journal = ListJournal()
    [episode] = run(table(SecondOnly), saying("3"), journal=journal)
    assert (episode.turns, episode.state, episode.success) == ((), "env_error", False)
    assert "before the policy had a turn" in (episode.error or "")
    assert {ending.state for ending in journal.endings.values()} == {"env_error"}


def test_what_a_seat_is_rewarded_before_its_first_turn_is_in_its_return() -> None:
    [episode] = run(table(SecondBegins), saying("3"), journal=ListJournal())
    assert [turn.reward for turn in episode.turns] == [0.25, 1.0]
    assert episode.total_reward == 1.5


def test_turns_that_wait_for_their_reward_are_written_when_play_is_stopped() -> None:
    journal = ListJournal()
    rounds = iter([False, False, False, True])
    [episode] = run(table(), saying("5"), saying("2"), journal=journal, stop=lambda: next(rounds))
    assert episode.state == "aborted"
    assert sorted(journal.played) == [(1, 0), (1, 1), (2, 0)]
    assert {ending.state for ending in journal.endings.values()} == {"aborted"}


def test_an_opponent_that_cannot_answer_aborts_all_seats() -> None:
    class Mute:
        def generate(self, requests: list[Request]) -> list[Sample]:
            raise PolicyError("no answer")

    journal = ListJournal()
    with pytest.raises(PolicyError, match="no answer"):
        run(table(opponent="v3"), saying("5"), Mute(), journal=journal)  # type: ignore[arg-type]
    assert sorted(journal.played) == [(1, 0)]
    assert [ending.state for ending in journal.endings.values()] == ["aborted", "aborted"]


def test_a_version_that_is_not_there_is_an_error_of_the_game() -> None:
    journal = ListJournal()
    [episode] = run(table(opponent="v9"), saying("5"), journal=journal)
    assert (episode.state, episode.error) == ("env_error", "no version v9")
    assert len(journal.endings) == 1
    [nobody] = play(
        [Attempt(environment=table(), seed=1, group="g", member=0, purpose="live", lease=LEASE)],
        saying("5"),
        ByteChat(),
        V0,
        ListJournal(),
        temperature=1.0,
        width=1,
        context_limit=999,
    )
    assert nobody.error == "'serving' cannot play the other seats here"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Unpaid, "has 0 rewards, but seat 1 has played"),
        (Promising, "info['rewards'] is of type str"),
        (Nowhere, "info['seat'] is -1, not a number from 0"),
    ],
)
def test_a_game_that_breaks_the_protocol_is_an_error_of_the_environment(kind: type[Table], error: str) -> None:
    [episode] = run(table(kind), saying("5"), journal=ListJournal())
    assert episode.state == "env_error"
    assert error in (episode.error or "")


def test_turns_are_limited_for_each_seat() -> None:
    journal = ListJournal()
    [episode] = run(table(turn_limit=1), saying("5"), journal=journal)
    assert (episode.stop_reason, len(episode.turns)) == ("turn_limit", 1)
    assert sorted(journal.played) == [(1, 0), (2, 0)]
    assert {ending.stop_reason for ending in journal.endings.values()} == {"turn_limit"}


def test_the_game_in_the_docs_plays() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(class HigherWins.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"gymnasium": gymnasium, "AnyText": AnyText}
    exec(code, names)
    journal = ListJournal()
    environment = Environment(name="py:docs:HigherWins", make=names["HigherWins"], instructions="", reward_low=-1.0)
    [episode] = run(environment, saying("5"), saying("2"), journal=journal)
    assert (episode.success, [ending.total_reward for ending in journal.endings.values()]) == (True, [1.0, -1.0])


def test_self_play_is_kept_in_a_store_and_counted_for_seat_0_alone(tmp_path: Path) -> None:
    environment = load("textarena:TicTacToe-v0?opponent=serving")
    rng = random.Random(3)
    policy = ScriptedPolicy(lambda text: random_mover("TicTacToe-v0")(text, rng), V0)
    clock = BootClock()
    with create_store(tmp_path / "home") as store:
        environments.register(store, environment.name, 1.0, -1.0, 1.0)
        versions.add_initial(store, "tiny", "hash")
        tasks.add_tasks(store, environment.name, [5], 4, "stream")
        [(task, lease)] = tasks.lease_tasks(store, "actor", 1, leases.TTL_S, clock)
        episodes = run(environment, policy, members=4, journal=StoreJournal(store, clock), lease=lease)
        tasks.finish_task(store, lease)
        rows = [get_episode(store, entry.id) for entry in list_episodes(store)]
        assert sorted((row.group, row.member, row.seat) for row in rows) == sorted(
            [("task-1", member, 0) for member in range(4)] + [("task-1/seat-1", member, 1) for member in range(4)]
        )
        assert all(row.state == "completed" and row.task == task.id and row.seed == 5 for row in rows)
        for row in rows:
            [other] = [one for one in rows if (one.member, one.seat) == (row.member, 1 - row.seat)]
            assert row.total_reward == -other.total_reward == sum(turn.reward for turn in row.turns)
            assert row.total_reward in (-1, 0, 1)
            player = row.turns[0].observation[:16]
            assert {player, other.turns[0].observation[:16]} == {"You are Player 0", "You are Player 1"}
            read = "\n".join(message.text for message in ByteChat().messages(row.turns[-1].prompt_ids) if message.role == "user")
            assert other.turns[0].observation[:16] not in read
            assert f"{player[8:]}: [" not in read
        rate = success_rates(store, "v0")[environment.name]
        assert (rate.episodes, rate.groups, rate.successes) == (4, 1, sum(episode.success for episode in episodes))
        assert check.check(store, clock) == []
        jobs.add_job(store, "key", [environment.name], LearnOrder(learner="grpo"))
        leased = jobs.lease_job(store, "learner", 60.0, clock)
        assert leased is not None
        job = leased[1]
        [seated, *_] = [row.id for row in rows if row.seat]
        with pytest.raises(InputError, match="is from seat 1"):
            manifests.write_manifest(store, job, 1, [seated], on_policy=False)
        manifests.write_manifest(store, job, 1, [episode.id for episode in episodes], on_policy=False)
