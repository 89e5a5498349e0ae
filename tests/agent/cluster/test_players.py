"""Players as processes of their own, the journal as another, and a real store: what is played, and what is left after a death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.cluster.cut_line import CutLine
from tests.agent.cluster.head_place import WALK, Head, acknowledged_once, head_in, queue
from tests.agent.cluster.wrong_clock import SECONDS, wrong_clock
from tests.faults.acknowledged import Acknowledgements, checksum

from perdure.memory.leases import BootClock
from perdure.memory.processes import events
from perdure.memory.store import open_store
from perdure.memory.trajectories.episodes import get_episode, list_episodes
from perdure.memory.upkeep.integrity import check

pytestmark = pytest.mark.processes

MEMBERS = 4
SILENCE_S = 3


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    with head_in(tmp_path) as head:
        head.silence_s = SILENCE_S
        yield head


def test_a_player_elsewhere_plays_live_tasks_as_the_actor_does(head: Head) -> None:
    queue(head, WALK, 3)
    head.start_journal()
    player = head.start_player()
    head.wait("all tasks", lambda: head.tasks("done") == 3)
    player.send_signal(signal.SIGTERM)
    assert player.wait(timeout=60) == 0
    with open_store(head.home) as store:
        played = [get_episode(store, entry.id) for entry in list_episodes(store, limit=99)]
    lengths = [(seed, member, 1 + seed) for seed in (3, 4, 5) for member in range(MEMBERS)]
    assert sorted((one.seed, one.member, len(one.turns)) for one in played) == lengths
    assert {one.state for one in played} == {"completed"}
    nothing_lost_or_doubled(head)


def test_no_death_loses_what_was_acknowledged_or_has_anything_played_twice(head: Head) -> None:
    """A player dies after an answer, the journal before one and at any moment, a player at any moment, and one is frozen."""
    queue(head, WALK, 12)
    head.start_journal()
    dies_by_itself = head.start_player(fault="after-answer:20")
    lives = head.start_player()
    assert dies_by_itself.wait(timeout=120) == -signal.SIGKILL
    plays(head, lives)
    kill_journal(head)
    assert head.start_journal("before-answer:10").wait(timeout=120) == -signal.SIGKILL
    head.start_journal()
    third = head.start_player()
    plays(head, third)
    third.kill()
    head.wait("its tasks to be played elsewhere", lambda: lost(head, 2))
    assert lives.poll() is None, head.log("player-1")
    kill_journal(head)
    head.start_journal()
    plays(head, lives, number=1)
    lives.send_signal(signal.SIGSTOP)
    head.wait("the silence of a frozen player", lambda: lost(head, 1))
    lives.send_signal(signal.SIGCONT)
    head.wait("all tasks", lambda: head.tasks("queued") + head.tasks("leased") == 0)
    assert head.tasks("failed") == 0
    lives.send_signal(signal.SIGTERM)
    assert lives.wait(timeout=60) == 0
    assert head.log("player-1").count("\nis player:") >= 1, "it came back under another name"
    nothing_lost_or_doubled(head)


def test_a_cut_line_ends_in_a_new_name_and_its_tasks_are_played(head: Head) -> None:
    queue(head, WALK, 6)
    head.start_journal()
    with CutLine(head.port) as line:
        player = head.start_player(port=line.port)
        plays(head, player)
        line.cut()
        head.wait("the silence", lambda: lost(head, 0))
        head.wait("the player to give up", lambda: "gives up its episodes" in head.log("player-0"))
        aborted = head.ask("SELECT count(*) FROM episode WHERE state = 'aborted'")
        assert aborted > 0
        line.mend()
        head.wait("all tasks", lambda: head.tasks("queued") + head.tasks("leased") == 0)
        player.send_signal(signal.SIGTERM)
        assert player.wait(timeout=60) == 0
    assert head.log("player-0").count("is player:") == 2
    nothing_lost_or_doubled(head)


def test_players_whose_clocks_are_a_minute_off_play_as_others_do(head: Head, tmp_path: Path) -> None:
    """No clock of a node counts: times in the store are the head's, and no lease ends early or late."""
    clock = wrong_clock(tmp_path)
    if clock is None:
        pytest.skip("there is no C compiler for a wrong clock")
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    said_s = float(subprocess.run(asked, env={**os.environ, **clock, SECONDS: "60"}, capture_output=True, check=True).stdout)
    assert 55 < said_s - time.time() < 90, "the clock is not wrong"
    head.start_journal()
    before_s = time.time()
    players = [head.start_player(variables={**clock, SECONDS: seconds}) for seconds in ("60", "-60")]
    for number, player in enumerate(players):
        plays(head, player, number)
    head.wait("all tasks", lambda: head.tasks("queued") + head.tasks("leased") == 0)
    for player in players:
        player.send_signal(signal.SIGTERM)
        assert player.wait(timeout=60) == 0
    with open_store(head.home) as store:
        sql = (
            "SELECT min(started_at) AS first, max(started_at) AS last, count(*) FILTER (WHERE state <> 'completed') AS others FROM episode"
        )
        [row] = store.rows(sql)
        assert not [event.message for event in events(store) if event.kind == "player lost"]
    assert before_s <= row["first"] <= row["last"] <= time.time()
    assert row["others"] == 0
    assert head.ask("SELECT max(attempt) FROM task") == 1
    nothing_lost_or_doubled(head)


def kill_journal(head: Head) -> None:
    assert head.journal is not None
    head.journal.kill()
    head.journal.wait(timeout=60)


def plays(head: Head, player: subprocess.Popen[bytes], number: int | None = None) -> None:
    """Wait until this player, by default the last that was started, has turns written in an episode that goes on."""
    name = f"player:p{len(head.players) - 1 if number is None else number}-"
    sql = f"""SELECT count(*) FROM turn JOIN episode e ON e.id = turn.episode JOIN task t ON t.id = e.task AND t.attempt = e.attempt
              WHERE e.state = 'running' AND substr(t.owner, 1, {len(name)}) = '{name}'"""

    def its_turns() -> bool:
        if head.tasks("queued") < 4:  # others may have played all before it began
            queue(head, WALK, 4)
        return player.poll() is None and head.ask(sql) > 0

    head.wait("the player to play", its_turns)


def lost(head: Head, player: int) -> bool:
    """Whether a player was found silent: the n-th that was started."""
    with open_store(head.home) as store:
        return any(event.kind == "player lost" and event.subject.startswith(f"player:p{player}-") for event in events(store))


def nothing_lost_or_doubled(head: Head) -> None:
    """Compare the store with what players were told is in it."""
    said = Acknowledgements(path=head.path / "acknowledged")
    said.read()
    assert said.turns
    with open_store(head.home) as store:
        stored = {
            (row["episode"], row["n"]): checksum(row["action_ids"], row["logprobs"])
            for row in store.rows("SELECT episode, n, action_ids, logprobs FROM turn")
        }
        states = {row["id"]: row["state"] for row in store.rows("SELECT id, state FROM episode")}
        assert {key: value for key, value in said.turns.items() if stored.get(key) != value} == {}
        assert {episode: state for episode, state in said.endings.items() if states.get(episode) != state} == {}
        assert acknowledged_once(store) == []
        assert [finding for finding in check(store, BootClock()) if finding.level == "error"] == []
