"""The code of an environment in the store: noted, carried by its episodes, and what happens when it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.memory.conftest import ADD, SORT, Player, SetClock
from tests.memory.everything import CLOCK, leased_job, leased_task, play
from tests.results import TERMS

from perdure.memory import environments, gates, jobs, processes, watches
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.environments import Registration, anchor_of, check_code, list_environments, note_code
from perdure.memory.errors import Unavailable
from perdure.memory.evidence.dev_scores import known_dev_scores
from perdure.memory.exchange.export import export
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.records import Ending
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.episodes import get_episode, success_rates
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.trajectories.live_play import live_groups
from perdure.memory.trajectories.traces import foreign_traces
from perdure.memory.upkeep.integrity import check


def known(store: Store, name: str = ADD) -> Registration:
    return next(row for row in list_environments(store) if row.name == name)


def changes(store: Store) -> list[tuple[str, str]]:
    return [(event.subject, event.message) for event in processes.events(store) if event.kind == "changed"]


def test_the_first_code_is_noted_and_changes_nothing(full: Store) -> None:
    before = known(full)
    assert before.code is None
    assert note_code(full, ADD, None) is note_code(full, ADD, "") is note_code(full, ADD, "one") is note_code(full, ADD, "one") is False
    assert known(full) == replace(before, code="one")
    assert note_code(full, "py:nobody:Knows", "one") is False
    assert changes(full) == []


def test_another_code_begins_anew_with_the_version_that_serves_and_history_stays(full: Store) -> None:
    full.rows("UPDATE environment SET anchor = 'v0' WHERE name = ?", (ADD,))
    note_code(full, ADD, "one")
    before, other = known(full), known(full, SORT)
    groups = live_groups(full, ADD, job=99, temperature=1.0)
    assert groups
    assert gates.pairs_that_count(full, 1)
    assert known_dev_scores(full, 1.0)
    assert ADD in success_rates(full, "v0")
    assert watches.watches(full, "v1")
    assert note_code(full, ADD, "two") is True
    now = known(full)
    assert (now.code, now.anchor, anchor_of(full, ADD), now.changed_gate, now.first_gate) == ("two", "v1", "v1", None, 2)
    assert now.changed_at is not None
    assert (now.registered, now.threshold, now.chance) == (before.registered, before.threshold, before.chance)
    message = "its code has changed (one, now two): v1 is its anchor from now on (v0 was before); its earlier scores count no more"
    assert changes(full) == [(ADD, message)]
    assert gates.pairs_that_count(full, 1) == []
    assert live_groups(full, ADD, job=99, temperature=1.0) == []
    assert known_dev_scores(full, 1.0) == {}
    assert ADD not in success_rates(full, "v0")
    assert watches.watches(full, "v1") == []
    assert len(gates.pairs_of(full, 1)) == 1, "what was measured stays in the store"
    assert known(full, SORT) == other
    assert note_code(full, ADD, "two") is False
    assert note_code(full, ADD, "one") is True, "the old code back is a change again: what was measured between is of the other"
    assert [finding for finding in check(full, CLOCK) if finding.rule == "digests"] == []


def test_pairs_of_the_next_gate_count_again(full: Store) -> None:
    note_code(full, ADD, "one")
    note_code(full, ADD, "two")
    lease = leased_job(full, "fourth", ProbeOrder())
    jobs.set_job_state(full, lease, "gating")
    gate = gates.start_gate(full, lease, "v3", "v1", "economy", TERMS)
    assert gate == known(full).first_gate
    gates.add_pairs(full, lease, gate, [replace(gates.pairs_of(full, 1)[0], seed=2**31 + 77)])
    assert len(gates.pairs_that_count(full, gate)) == 1


def test_without_a_version_that_serves_there_is_no_anchor_yet(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        environments.register(store, ADD, code="one")
        assert note_code(store, ADD, "two") is True
        assert anchor_of(store, ADD) is None
        assert changes(store) == [(ADD, "its code has changed (one, now two); its earlier scores count no more")]


def test_an_episode_has_the_code_that_it_was_played_with_and_another_one_is_refused(store: Store, clock: SetClock, player: Player) -> None:
    lease = leased_task(store)
    journal = StoreJournal(store, CLOCK)
    plan = player.plan(lease, "task-1")
    (first,) = journal.start([replace(plan, code="one")])
    assert (get_episode(store, first).code, known(store).code) == ("one", "one"), "the first that is known is noted"
    (unknown,) = journal.start([replace(plan, member=1)])
    assert get_episode(store, unknown).code is None
    check_code(store, ADD, "one")
    note_code(store, ADD, "two")
    with pytest.raises(Unavailable, match=r"the code of perdure:add has changed since this process loaded it"):
        journal.start([replace(plan, member=2, code="two"), replace(plan, member=3, code="one")])
    assert store.rows("SELECT count(*) FROM episode")[0][0] == 2, "nothing of that batch was written"
    (last,) = journal.start([replace(plan, member=2, code="two")])
    assert get_episode(store, last).code == "two"


def test_code_and_instructions_are_in_exports_with_their_digests_and_come_back(store: Store, clock: SetClock, tmp_path: Path) -> None:
    lease = leased_task(store)
    journal = StoreJournal(store, CLOCK)
    (playing,) = journal.start([replace(Player(store, clock).plan(lease, "task-1"), code="one")])
    journal.turns([(playing, 0, Player(store, clock).turn())])
    ended = Ending(episode=playing, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0)
    journal.finish([replace(ended, instructions="Say \ud800 it.")])
    assert get_episode(store, playing).instructions == "Say ? it."
    assert [finding for finding in check(store, CLOCK) if finding.rule == "digests"] == []
    file = tmp_path / "out.jsonl"
    export(store, file, "jsonl")
    document = json.loads(file.read_text())
    assert (document["code"], document["instructions"]) == ("one", "Say ? it.")
    import_file(store, file, "ours")
    assert [trace.instructions for trace in foreign_traces(store, "ours")] == ["Say ? it."]
    for key in ("code", "instructions"):
        changed = tmp_path / f"{key}.jsonl"
        changed.write_text(json.dumps({**document, key: "another"}) + "\n")
        with pytest.raises(ValueError, match="differs from that of what it covers"):
            import_file(store, changed, "edited")
    play(store, lease, "task-2", [1.0])
