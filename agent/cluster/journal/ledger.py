"""What the journal does with each message of a player: it leases tasks, writes turns, and ends tasks, in the store of the home.

A message may come twice, if its answer was lost. The key of a write is what it is about, so that it is known again even by a journal that
was started anew: an episode by its lease, group, member and seat, a turn by its episode and number, an ending by its episode, the end of a
task by its attempt. The same content is answered as before; other content is refused. Left out: which player may speak
(`known_players.py`), and transactions (`writer.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import perdure
from perdure.agent.cluster.journal.known_players import PREFIX, KnownPlayers, PlayerFenced, PlayerGone
from perdure.agent.cluster.journal.wire import (
    PROTOCOL,
    Body,
    read_endings,
    read_plans,
    read_turns,
    task_said,
    unreadable,
)
from perdure.agent.processes.live_desk import leased_tasks
from perdure.agent.supervision.abandoned_work import requeue_tasks, retry_tasks
from perdure.memory.environments import code_of_environment, note_code
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure, Unavailable
from perdure.memory.json_value import Document
from perdure.memory.leases import TTL_S, Clock
from perdure.memory.processes import home_began, pauses, record_event
from perdure.memory.records import EpisodePlan, Lease, Turn, VersionRef
from perdure.memory.store import Store
from perdure.memory.tasks import finish_task, leases_of, queued, release_task, retry_task
from perdure.memory.trajectories.journal import InPlay, StoreJournal
from perdure.memory.trajectories.turns import read_sampler
from perdure.memory.versions import INITIAL, base_of, get_version, serving

IDLE_S = 0.5
"""How long a player waits that got no task, before it asks again."""
IDLE_EACH_S = 0.05
"""And for each player that there is, so that many of them take no more of the head than few."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The store as players see it. All of it belongs to one thread."""

    store: Store
    clock: Clock
    players: KnownPlayers
    journal: StoreJournal = field(init=False)
    hashes: dict[str, str] = field(default_factory=dict)
    """Of versions, by name."""
    fenced: dict[str, str] = field(default_factory=dict)
    """Players that were sent away, and why; their leases are still to be ended."""

    def __post_init__(self) -> None:
        self.journal = StoreJournal(self.store, self.clock)

    def answer(self, path: str, body: Body) -> Document:
        """Do what a player asks for in the current transaction. Raises what the store raises, and `PlayerGone` and `PlayerFenced`."""
        try:
            if path == "hello":
                return self._hello(body.head)
            name = str(body.head["player"])
            self._know(name)
            return _ACTS[path](self, name, body)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise unreadable(error) from error

    def end_fenced(self) -> None:
        """End the leases of players that were sent away. In a transaction of its own: what they said is undone."""
        while self.fenced:
            self._end(*self.fenced.popitem(), "fenced")

    def end_silent(self) -> None:
        """End the leases of players that were not heard for too long, and queue their tasks again."""
        for name in self.players.silent():
            self.players.drop(name)
            if leases_of(self.store, name):  # else it has gone in good order
                self._end(name, f"it was silent for {self.players.silence_s:g} s", "lost")

    def keep(self) -> None:
        """Renew the leases of all players that are heard, if it is time."""
        sql = "UPDATE task SET lease_until = ?, boot_id = ? WHERE owner = ? AND state = 'leased' AND lease_until BETWEEN 0 AND ?"
        until = self.clock.now_s() + TTL_S
        owners = [player.name for player in self.players.all()]
        if owners:
            with self.store.write() as conn:
                for owner in owners:
                    conn.execute(sql, (until, self.clock.boot_id(), owner, until - TTL_S / 4))

    def undone(self) -> None:
        """The current transaction came to nothing: what this process remembers of it is forgotten, and read again."""
        self.journal.forget(lambda _: True)

    def _know(self, name: str) -> None:
        """Refuse who may not write. A player that holds leases of an earlier process of the journal is known again."""
        if self.players.heard(name):
            return
        sql = "SELECT 1 FROM task WHERE owner = ? AND state = 'leased' AND lease_until >= 0 LIMIT 1"
        if not name.startswith(PREFIX) or not self.store.rows(sql, (name,)):
            raise PlayerGone(f"{name} is not known here, or was silent for too long: its leases have ended")
        self.players.know_again(name)

    def _end(self, name: str, why: str, kind: str) -> None:
        """End the leases of a player. Its episodes are aborted; what was written of them stays."""
        with self.store.write():
            held = len(leases_of(self.store, name))
            if kind == "fenced":  # not the fault of its tasks
                requeue_tasks(self.store, name)
            else:
                retry_tasks(self.store, name, f"the player {name} was lost: {why}")
            record_event(self.store, f"player {kind}", name, f"{why}; {held} of its tasks are given back")
        self.journal.forget(lambda one: one.lease.owner == name)

    def _fence(self, name: str, why: str) -> PlayerFenced:
        self.players.fence(name, why)
        self.fenced[name] = why
        return PlayerFenced(f"{name} was sent away: {why}")

    def _hello(self, head: Document) -> Document:
        """Let a player in whose program and model are those of the head."""
        if (head["protocol"], head["perdure"]) != (PROTOCOL, perdure.__version__):
            raise InputError(
                f"the player has Perdure {head['perdure']} (protocol {head['protocol']}), the head has {perdure.__version__} "
                f"(protocol {PROTOCOL}): install the same on both"
            )
        if not self.store.rows("SELECT 1 FROM version WHERE name = ?", (INITIAL,)):
            raise Unavailable("no version serves yet: the head is still starting")
        model, hash_ = base_of(self.store, INITIAL)
        if head["hash"] != hash_:
            raise InputError(
                f"the player's model {head['model']!r} has the hash {str(head['hash'])[:12]}, that of the head ({model!r}) {hash_[:12]}: "
                "give its node the same files"
            )
        precisions = self.store.rows("SELECT device, dtype FROM precision")
        name = self.players.welcome("".join(c for c in str(head["label"]) if c.isalnum() or c in ".-_")[:40])
        return {
            "player": name,
            "began_s": home_began(self.store),
            "precision": {row["device"]: row["dtype"] for row in precisions},
            "silence_s": self.players.silence_s,
        }

    def _serving(self, name: str, body: Body) -> Document:
        """The version that serves, or the one that is asked for."""
        version = serving(self.store) if body.head.get("version") is None else get_version(self.store, str(body.head["version"]))
        return {"version": version.name, "hash": version.hash, "base": version.path is None}

    def _lease(self, name: str, body: Body) -> Document:
        """Tasks to play. Those that this player holds without knowing it, because an answer was lost, come first."""
        held = {int(task) for task in body.head["holds"]}
        wait_s = IDLE_S + IDLE_EACH_S * len(self.players.all())
        if serving(self.store).name != body.head["version"]:
            return {"over": True, "tasks": [], "wait_s": 0.0}
        unknown = [lease for lease in leases_of(self.store, name) if lease.subject not in held]
        for lease in unknown:  # given back and leased anew, so that one function says what a player has to know
            release_task(self.store, lease)
        if any(one.what == "play" for one in pauses(self.store)):
            return {"over": False, "tasks": [], "wait_s": wait_s}
        share = math.ceil(queued(self.store) / max(len(self.players.all()), 1))
        found = leased_tasks(self.store, name, max(0, min(int(body.head["most"]), max(share, 1))), self.clock)
        return {"over": False, "tasks": [task_said(one.task, one.done, one.code) for one in found], "wait_s": 0.0 if found else wait_s}

    def _start(self, name: str, body: Body) -> Document:
        plans = read_plans(body.head["plans"])
        for plan in plans:
            self._check_plan(name, plan, body.head["hashes"])
        if body.head["again"] and (known := [self._begun(plan) for plan in plans]) and all(known):
            return {"episodes": known}
        return {"episodes": self.journal.start(plans)}

    def _check_plan(self, name: str, plan: EpisodePlan, hashes: Document) -> None:
        if plan.lease.owner != name or plan.purpose != "live":
            raise InputError(f"{name} may not begin an episode under a lease of {plan.lease.owner} for {plan.purpose}")
        known = code_of_environment(self.store, plan.environment)
        if plan.code and known not in (None, plan.code):
            raise InputError(other_code(plan.environment, plan.code, str(known)))
        if not isinstance(plan.sampler, VersionRef) or hashes.get(plan.sampler.name) != self._hash_of(plan.sampler.name):
            given = str(hashes.get(str(plan.sampler)))[:12]
            raise self._fence(name, f"it says that it serves {plan.sampler}, with files that are not those of the head (hash {given})")

    def _hash_of(self, version: str) -> str:
        if version not in self.hashes:
            self.hashes[version] = get_version(self.store, version).hash
        return self.hashes[version]

    def _begun(self, plan: EpisodePlan) -> int | None:
        """The episode of a plan that was begun already, under the same lease. Raises `RuntimeFailure` if it is another one."""
        rows = self.store.rows(
            """
            SELECT * FROM episode WHERE "group" = ? AND member = ? AND state = 'running' AND seat = ? AND attempt = ?
                AND coalesce(task, job) = ?
            """,
            (plan.group, plan.member, plan.seat, plan.lease.attempt, plan.lease.subject),
        )
        if not rows:
            return None
        [row] = rows
        if (row["environment"], row["seed"], read_sampler(row)) != (plan.environment, plan.seed, plan.sampler):
            raise RuntimeFailure(f"episode {row['id']} was begun otherwise than it is said now: nothing was written")
        return int(row["id"])

    def _turns(self, name: str, body: Body) -> Document:
        entries = read_turns(body, lambda episode: self._in_play(name, episode).end[1])
        if body.head["again"]:
            entries = [entry for entry in entries if not self._written(name, *entry)]
        for episode, n, turn in entries:
            played_by = self._in_play(name, episode).sampler
            if turn.sampler != played_by:
                raise self._fence(name, f"turn {n} of episode {episode} came from {turn.sampler}, but {played_by} plays it")
        if entries:
            self.journal.turns(entries)
        return {}

    def _in_play(self, name: str, episode: int) -> InPlay:
        """An episode that this player plays. Raises `LeaseLost`, and `RuntimeFailure` if it does not run."""
        found = self.journal.in_play(episode)
        if found is None:
            rows = self.store.rows("SELECT task, attempt FROM episode WHERE id = ?", (episode,))
            lease = Lease(subject=rows[0]["task"] or 0, owner=name, attempt=rows[0]["attempt"]) if rows else None
            if lease is None or lease not in leases_of(self.store, name):
                raise LeaseLost(f"episode {episode}: {name} lost its lease; nothing was written")
            found = self.journal.take_up(episode, lease)
        if found.lease.owner != name:
            raise LeaseLost(f"episode {episode} is played by {found.lease.owner}, not by {name}; nothing was written")
        return found

    def _written(self, name: str, episode: int, n: int, turn: Turn) -> bool:
        """Whether this turn is the last that was written. Raises `RuntimeFailure` if that was another one."""
        count, last, _ = self._in_play(name, episode).end
        if n != count - 1:
            return False
        if turn != last:
            raise RuntimeFailure(f"turn {n} of episode {episode} was written already, and is another one: nothing was written")
        return True

    def _finish(self, name: str, body: Body) -> Document:
        endings = read_endings(body.head["endings"])
        if body.head["again"]:
            endings = [ending for ending in endings if not self._ended(ending.episode, ending.state, ending.total_reward)]
        for ending in endings:
            self._in_play(name, ending.episode)
        if endings:
            self.journal.finish(endings)
        return {}

    def _ended(self, episode: int, state: str, total_reward: float) -> bool:
        """Whether an episode has ended already as is said now. Raises `RuntimeFailure` if it ended otherwise."""
        [row] = self.store.rows("SELECT state, total_reward FROM episode WHERE id = ?", (episode,))
        if row["state"] == "running":
            return False
        if (row["state"], row["total_reward"]) != (state, total_reward):
            raise RuntimeFailure(f"episode {episode} is {row['state']} already: it cannot become {state}")
        return True

    def _end_task(self, name: str, body: Body) -> Document:
        lease = Lease(subject=int(body.head["task"]), owner=name, attempt=int(body.head["attempt"]))
        how, error = body.head["how"], str(body.head["error"])
        ways: dict[str, Callable[[], None]] = {
            "finish": lambda: finish_task(self.store, lease),
            "release": lambda: release_task(self.store, lease),
            "retry": lambda: retry_task(self.store, lease, error),
        }
        try:
            ways[how]()
        except LeaseLost:
            rows = self.store.rows("SELECT state, attempt, owner FROM task WHERE id = ?", (lease.subject,))
            ended = rows and (rows[0]["attempt"], rows[0]["owner"]) == (lease.attempt, None)
            if not body.head["again"] or not ended or (rows[0]["state"] == "done") != (how == "finish"):
                raise
        return {}

    def _note_code(self, name: str, body: Body) -> Document:
        environment, code = str(body.head["environment"]), str(body.head["code"])
        known = code_of_environment(self.store, environment)
        if known not in (None, code):
            raise InputError(other_code(environment, code, str(known)))
        note_code(self.store, environment, code)
        return {}


def other_code(environment: str, code: str, known: str) -> str:
    """The error for an environment whose code on a node is not that of the head, which alone decides what it is."""
    return f"the code of {environment} is {code} on the player's node, and {known} on the head: install the same on both"


_ACTS: dict[str, Callable[[Ledger, str, Body], Document]] = {
    "serving": Ledger._serving,
    "lease": Ledger._lease,
    "start": Ledger._start,
    "turns": Ledger._turns,
    "finish": Ledger._finish,
    "end-task": Ledger._end_task,
    "code": Ledger._note_code,
}
PATHS: Sequence[str] = ("hello", *_ACTS)
"""What a player may ask of the ledger."""
