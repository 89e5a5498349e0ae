"""What the journal does with each message of a player: it lets players in, leases tasks and errands, and writes what they came to.

Everything can be asked twice: what a player holds without knowing it, because an answer was lost, is given back and leased anew. Left out:
episodes (`episode_writes.py`), which player may speak (`known_players.py`), and transactions (`writer.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import perdure
from perdure.agent.cluster.journal.episode_writes import EpisodeWrites, OtherVersion, other_code
from perdure.agent.cluster.journal.journal_messages import PROTOCOL, Body, read_leases, task_said, unreadable
from perdure.agent.cluster.journal.known_players import PREFIX, KnownPlayers, PlayerFenced, PlayerGone
from perdure.agent.cluster.journal.prompt_scores import PromptScores
from perdure.agent.processes.live_desk import leased_tasks
from perdure.agent.supervision.abandoned_work import requeue_tasks, retry_tasks
from perdure.memory.environments import code_of_environment, note_code
from perdure.memory.errands.errand_leases import JOB_AWAKE, end_errands, keep_errands_of, lease_errands, queue_again, release_errands
from perdure.memory.errands.errand_records import ERRAND_TTL_S, errand_document
from perdure.memory.errors import InputError, LeaseLost, PerdureError, Unavailable
from perdure.memory.json_value import Document, to_json
from perdure.memory.leases import ATTEMPT_CAP, TTL_S, Clock
from perdure.memory.processes import home_began, pauses, record_event
from perdure.memory.records import Lease
from perdure.memory.store import Store
from perdure.memory.tasks import finish_task, leases_of, queued, release_task, retry_task
from perdure.memory.versions import INITIAL, base_of, get_version, serving

IDLE_S = 0.5
"""How long a player waits that got no task, before it asks again."""
IDLE_EACH_S = 0.1
"""And for each player that there is, so that many of them take no more of the head than few."""

Told = Callable[["Ledger", str, Body], Document]


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The store as players see it. All of it belongs to one thread."""

    store: Store
    clock: Clock
    players: KnownPlayers
    writes: dict[str, EpisodeWrites] = field(default_factory=dict)
    """Of each player: of what it plays now."""
    scores: PromptScores = field(default_factory=PromptScores)
    fenced: dict[str, str] = field(default_factory=dict)
    """Players that were sent away, and why; their leases are still to be ended."""

    def know_again(self) -> None:
        """Take in the players that hold leases of an earlier process of the journal: those that are dead are found silent then."""
        held = "state = 'leased' AND lease_until >= 0 AND substr(owner, 1, ?) = ?"
        sql = f"SELECT owner FROM task WHERE {held} UNION SELECT owner FROM errand WHERE {held}"
        for row in self.store.rows(sql, (len(PREFIX), PREFIX) * 2):
            self.players.know_again(row["owner"])

    def answer(self, path: str, body: Body) -> Document:
        """Do what a player asks for in the current transaction. Raises what the store raises, and `PlayerGone` and `PlayerFenced`."""
        name = str(body.head.get("player", ""))
        try:
            if path == "hello":
                return self._hello(body.head)
            self._know(name)
            return _ACTS[path](self, name, body)
        except OtherVersion as error:
            self.players.fence(name, str(error))
            self.fenced[name] = str(error)
            raise PlayerFenced(f"{name} was sent away: {error}") from error
        except PerdureError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise unreadable(error) from error

    def end_fenced(self) -> None:
        """End the leases of players that were sent away. Not in the transaction of what they said, which is undone."""
        while self.fenced:
            self._end(*self.fenced.popitem(), "fenced")

    def end_silent(self) -> None:
        """End the leases of players that were not heard for too long, and queue their tasks again."""
        for name in self.players.silent():
            self.players.drop(name)
            self._end(name, f"it was silent for {self.players.silence_s:g} s", "lost")

    def keep(self) -> None:
        """Renew the leases of all players that are heard, if it is time."""
        owners = [player.name for player in self.players.all()]
        until = self.clock.now_s() + TTL_S
        with self.store.write() as conn:
            conn.execute(
                """
                UPDATE task SET lease_until = ?, boot_id = ?
                WHERE state = 'leased' AND lease_until BETWEEN 0 AND ? AND owner IN (SELECT value FROM json_each(?))
                """,
                (until, self.clock.boot_id(), until - TTL_S / 4, to_json(owners)),
            )
            for owner in owners:
                keep_errands_of(self.store, owner, ERRAND_TTL_S, self.clock)

    def undone(self) -> None:
        """The current transaction came to nothing: what this process remembers of it is forgotten, and read again."""
        self.writes.clear()

    def _know(self, name: str) -> None:
        """Refuse who may not write. A player that holds leases of an earlier process of the journal is known again."""
        if self.players.heard(name):
            return
        if not name.startswith(PREFIX) or not self._holds_any(name):
            raise PlayerGone(f"{name or 'a player without a name'} is not known here, or was silent for too long: its leases have ended")
        self.players.know_again(name)

    def _holds_any(self, name: str) -> bool:
        held = "owner = ? AND state = 'leased' AND lease_until >= 0"
        sql = f"SELECT 1 FROM task WHERE {held} UNION ALL SELECT 1 FROM errand WHERE {held} LIMIT 1"
        return bool(self.store.rows(sql, (name, name)))

    def _end(self, name: str, why: str, kind: str) -> None:
        """End the leases of a player. Its episodes are aborted; what was written of them stays."""
        self.writes.pop(name, None)
        if not self._holds_any(name) and kind == "lost":  # it has gone in good order
            return
        with self.store.write():
            held = len(leases_of(self.store, name))
            if kind == "fenced":  # not the fault of its tasks
                requeue_tasks(self.store, name)
            else:
                retry_tasks(self.store, name, f"the player {name} was lost: {why}")
            errands = queue_again(self.store, "owner = ? AND state = 'leased'", (name,), f"its player was {kind}: {why}")
            record_event(self.store, f"player {kind}", name, f"{why}; {held} of its tasks and {errands} of its errands go to others")

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
        return {
            "player": self.players.welcome("".join(c for c in str(head["label"]) if c.isalnum() or c in ".-_")[:40]),
            "began_s": home_began(self.store),
            "precision": {row["device"]: row["dtype"] for row in precisions},
            "silence_s": self.players.silence_s,
        }

    def _serving(self, name: str, body: Body) -> Document:
        """The version that serves, or the one that is asked for."""
        version = serving(self.store) if body.head["version"] is None else get_version(self.store, str(body.head["version"]))
        return {"version": version.name, "hash": version.hash, "base": version.path is None}

    def _loaded(self, name: str, body: Body) -> Document:
        """A player has loaded a version: what it says to a fixed prompt must be what others say."""
        version = get_version(self.store, str(body.head["version"]))
        if body.head["hash"] != version.hash:
            raise OtherVersion(f"it has loaded other files as {version.name} than the head has (hash {str(body.head['hash'])[:12]})")
        found = self.scores.contradiction(name, version.hash, str(body.head["numerics"]), [float(one) for one in body.head["scores"]])
        if found is not None:
            raise OtherVersion(f"what it serves as {version.name} {found}")
        return {}

    def _lease(self, name: str, body: Body) -> Document:
        """Live tasks. The shift is over if another version serves, or if errands wait: those come first."""
        held = {int(task) for task in body.head["holds"]}
        wait_s = IDLE_S + IDLE_EACH_S * len(self.players.all())
        for lease in leases_of(self.store, name):
            if lease.subject not in held:
                release_task(self.store, lease)
        if not held:  # no episode is in play
            self.writes.pop(name, None)
        errands = self._errands_wait()
        if errands or serving(self.store).name != body.head["version"]:
            return {"over": True, "errands": errands, "tasks": [], "wait_s": 0.0}
        share = math.ceil(queued(self.store) / max(len(self.players.all()), 1))
        paused = any(one.what == "play" for one in pauses(self.store))
        most = 0 if paused else min(int(body.head["most"]), max(share, 1))
        found = leased_tasks(self.store, name, most, self.clock)
        tasks = [task_said(one.task, one.done, one.code) for one in found]
        return {"over": False, "errands": False, "tasks": tasks, "wait_s": 0.0 if found else wait_s}

    def _errands_wait(self) -> bool:
        sql = f"SELECT 1 FROM errand WHERE state = 'queued' AND spent < {ATTEMPT_CAP} AND {JOB_AWAKE} LIMIT 1"
        return bool(self.store.rows(sql, (self.clock.boot_id(), self.clock.now_s())))

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
            raise other_code(environment, code, str(known))
        note_code(self.store, environment, code)
        return {}

    def _lease_errand(self, name: str, body: Body) -> Document:
        """Errands of one batch. A player that asks holds none, as far as it knows."""
        queue_again(self.store, "owner = ? AND state = 'leased'", (name,), None)
        found = lease_errands(self.store, name, int(body.head["most"]), ERRAND_TTL_S, self.clock)
        return {"errands": [errand_document(errand) for errand in found]}

    def _end_errand(self, name: str, body: Body) -> Document:
        """The scores of errands, or none if they are given back."""
        held = read_leases(body.head["held"], name)
        if body.head["scores"] is None:
            release_errands(self.store, held, body.head["error"])
        else:
            end_errands(self.store, zip(held, [tuple(scores) for scores in body.head["scores"]], strict=True))
        return {}

    def _writes(self, name: str, body: Body) -> EpisodeWrites:
        """What a player plays now: live tasks, or the errands that it says it holds."""
        errands = read_leases(body.head.get("errands", ()), name)
        found = self.writes.get(name)
        if found is None or found.errands != errands:
            found = self.writes[name] = EpisodeWrites(store=self.store, player=name, clock=self.clock, errands=errands)
        return found


_ACTS: dict[str, Told] = {
    "ping": lambda ledger, name, body: {},
    "serving": Ledger._serving,
    "loaded": Ledger._loaded,
    "lease": Ledger._lease,
    "start": lambda ledger, name, body: ledger._writes(name, body).start(body.head),
    "turns": lambda ledger, name, body: ledger._writes(name, body).turns(body),
    "finish": lambda ledger, name, body: ledger._writes(name, body).finish(body.head),
    "end-task": Ledger._end_task,
    "code": Ledger._note_code,
    "lease-errand": Ledger._lease_errand,
    "end-errand": Ledger._end_errand,
}
PATHS: Sequence[str] = ("hello", *_ACTS)
"""What a player may ask of the ledger."""
