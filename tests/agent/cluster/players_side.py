"""What a player says to the journal, said by hand: for tests of what the journal does with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.agent.cluster.head_place import ADD, WALK
from tests.agent.cluster.scripted_player import BASE_HASH

import perdure
from perdure.agent.cluster.journal.journal_messages import PROTOCOL, Body, endings_said, plans_said, read_message, turns_message
from perdure.agent.cluster.journal.known_players import KnownPlayers
from perdure.agent.cluster.journal.ledger import Ledger
from perdure.memory.environments import register
from perdure.memory.errors import PerdureError
from perdure.memory.json_value import Document
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Lease, Sampler, Turn, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks
from perdure.memory.versions import add_initial

V0 = VersionRef("v0")


@dataclass
class Time:
    """A clock that a test sets."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Table:
    """A journal without HTTP: its ledger over a real store, and its clock."""

    store: Store
    time: Time = field(default_factory=Time)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.start_again()

    def start_again(self) -> None:
        """Another process of the journal, which remembers nothing."""
        self.ledger = Ledger(store=self.store, clock=BootClock(), players=KnownPlayers(10.0, self.time))

    def ask(self, path: str, body: Body | Document, *, again: bool = False) -> Document:
        """What the journal answers, as the writer has it answered: over the wire, in a transaction."""
        given = body if isinstance(body, Body) else Body(head=body)
        sent = read_message(Body(head={**given.head, "again": again}, rest=given.rest).packed())
        try:
            with self.store.write():
                return self.ledger.answer(path, sent)
        finally:
            self.ledger.end_fenced()

    def twice(self, path: str, body: Body | Document) -> Document:
        """The same message, whose first answer was lost."""
        first = self.ask(path, body)
        assert self.ask(path, body, again=True) == first
        return first

    def hello(self, **other: Any) -> str:
        said = {"protocol": PROTOCOL, "perdure": perdure.__version__, "model": "tiny", "hash": BASE_HASH, "label": "p", **other}
        return str(self.ask("hello", said)["player"])

    def lease(self, player: str, most: int = 1, holds: Sequence[int] = ()) -> list[Lease]:
        answer = self.ask("lease", {"player": player, "version": "v0", "holds": list(holds), "most": most})
        return [Lease(subject=row[0], owner=player, attempt=row[4]) for row in answer["tasks"]]

    def pass_s(self, seconds: float) -> None:
        """Let time pass, second by second, as the journal looks."""
        for _ in range(round(seconds)):
            self.time.now += 1.0
            self.ledger.end_silent()
            self.ledger.keep()


def plan(lease: Lease, member: int = 0, **other: Any) -> EpisodePlan:
    values: dict[str, Any] = {"environment": WALK, "seed": 3, "purpose": "live", "sampler": V0, "temperature": 1.0}
    return EpisodePlan(group=f"task-{lease.subject}", member=member, lease=lease, **{**values, **other})


def starting(player: str, plans: Sequence[EpisodePlan], hash_: str = BASE_HASH) -> Document:
    return {"player": player, "plans": plans_said(plans), "hashes": {"v0": hash_}}


def turn(n: int, before: Turn | None = None, sampler: Sampler = V0, reward: float = 0.5) -> Turn:
    """A turn that continues `before`."""
    shared = () if before is None else before.prompt_ids + before.action_ids
    return Turn(
        prompt_ids=(*shared, 10 + n, 20 + n),
        action_ids=(30 + n, 7),
        logprobs=(-0.5, -0.25 * n),
        observation=f"observation {n} \ud800",
        action=f"action {n}",
        reward=reward,
        sampler=sampler,
        finish="stop",
        shared=len(shared),
    )


def saying(player: str, entries: Sequence[tuple[int, int, Turn]]) -> Body:
    body = turns_message(entries)
    return Body(head={"player": player, **body.head}, rest=body.rest)


def ending(player: str, episodes: Sequence[int], reward: float = 1.0) -> Document:
    ends = [
        Ending(episode=one, state="completed", stop_reason="terminated", total_reward=reward, success=True, score=1.0) for one in episodes
    ]
    return {"player": player, "endings": endings_said(ends)}


def bringing(lease: Lease, how: str, error: str = "") -> Document:
    return {"player": lease.owner, "task": lease.subject, "attempt": lease.attempt, "how": how, "error": error}


@contextmanager
def table_in(path: Path, tasks: int = 2) -> Iterator[Table]:
    """A home with queued tasks."""
    with create_store(path / "home") as store:
        for name in (WALK, ADD):
            register(store, name)
        add_initial(store, "tiny", BASE_HASH)
        add_tasks(store, WALK, range(3, 3 + tasks), 2, "stream")
        yield Table(store)


def refusal(table: Table, path: str, body: Body | Document, *, again: bool = False) -> PerdureError:
    """The error that a message is answered with."""
    try:
        answer = table.ask(path, body, again=again)
    except PerdureError as error:
        return error
    raise AssertionError(f"{path} was answered with {answer}")
