"""Tasks and journal of a process elsewhere: what `agent/processes/live_desk.py` and `StoreJournal` are on the head, over HTTP.

Tasks are leased in batches, about as many as there are places. A call returns when what it says is in the head's database.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.journal_messages import endings_said, leases_said, plans_said, read_task, turns_message
from perdure.agent.config import PlaySection
from perdure.agent.processes.live_shift import LeasedTask
from perdure.envs.rollout import Journal
from perdure.learners.gate.player import Scores
from perdure.memory.errands.errand_records import Errand, read_errand
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn, VersionRef


class RemoteDesk:
    """The desk of a player. A task that it holds is known by its lease until it is brought back."""

    def __init__(self, client: JournalClient, player: str, play: PlaySection) -> None:
        self._client = client
        self._player = player
        self._most = max(1, math.ceil(play.width / play.members / 2))
        self._holds: set[int] = set()
        """The tasks that this player holds."""
        self._idle_until_s = 0.0
        self.errands_wait = False
        """Whether the head had errands when it was asked last."""

    @property
    def waits(self) -> bool:
        """Whether the head had nothing to play, and is not asked again yet."""
        return time.monotonic() < self._idle_until_s

    def serving(self) -> VersionRef:
        return VersionRef(str(self._ask("serving", version=None)["version"]))

    def lease(self, version: VersionRef) -> Sequence[LeasedTask] | None:
        if self.waits:
            return []
        answer = self._ask("lease", version=version.name, holds=[*self._holds], most=self._most)
        self.errands_wait = bool(answer["errands"])
        if answer["over"]:
            return None
        self._idle_until_s = time.monotonic() + float(answer["wait_s"])
        found = []
        for row in answer["tasks"]:
            task, lease, done, code = read_task(row, self._player)
            self._holds.add(task.id)
            found.append(LeasedTask(task=task, lease=lease, done=done, code=code))
        return found

    def note_code(self, environment: str, code: str) -> None:
        if code:
            self._ask("code", environment=environment, code=code)

    def cannot_make(self, lease: Lease, error: str) -> None:
        """Raise `InputError`: what this node lacks is no fault of the task, which others can play."""
        self.release(lease)
        raise InputError(f"on this node {error}")

    def finish(self, lease: Lease) -> None:
        self._end(lease, "finish", "")

    def release(self, lease: Lease) -> None:
        self._end(lease, "release", "")

    def retry(self, lease: Lease, error: str) -> None:
        self._end(lease, "retry", error)

    def _end(self, lease: Lease, how: str, error: str) -> None:
        self._holds.discard(lease.subject)
        self._ask("end-task", task=lease.subject, attempt=lease.attempt, how=how, error=error)

    def _ask(self, path: str, **head: object) -> Document:
        return self._client.ask(path, {"player": self._player, **head}).head


class RemoteErrandDesk:
    """Errands from the head (`agent/cluster/judging/errand_play.py:ErrandDesk`). The pings of the player keep them."""

    def __init__(self, client: JournalClient, player: str, hashes: Mapping[str, str]) -> None:
        self._client = client
        self._player = player
        self._hashes = hashes

    def take(self, limit: int) -> list[Errand]:
        answer = self._client.ask("lease-errand", {"player": self._player, "most": limit})
        return [read_errand(document) for document in answer.head["errands"]]

    @contextmanager
    def playing(self, errands: Sequence[Errand], lost: Callable[[], None]) -> Iterator[Journal]:
        """`lost` is never called: the journal refuses what is written then, and the player's pings tell if it is known no more."""
        yield RemoteJournal(self._client, self._player, self._hashes, [errand.lease for errand in errands])

    def end(self, ended: Sequence[tuple[Lease, Scores]]) -> None:
        self._bring([lease for lease, _ in ended], scores=[list(scores) for _, scores in ended], error=None)

    def give_back(self, held: Sequence[Lease], error: str | None) -> None:
        self._bring(held, scores=None, error=error)

    def _bring(self, held: Sequence[Lease], **said: object) -> None:
        self._client.ask("end-errand", {"player": self._player, "held": leases_said(held), **said})


class RemoteJournal:
    """The journal of a player (`envs/rollout.py:Journal`), for live tasks, or for the errands that it holds.

    Raises what the head's journal raises.
    """

    def __init__(self, client: JournalClient, player: str, hashes: Mapping[str, str], errands: Sequence[Lease] = ()) -> None:
        """`hashes` are those of the versions that this player has loaded, by name, as they change."""
        self._client = client
        self._who: Document = {"player": player, "errands": leases_said(errands)}
        self._hashes = hashes

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        used = {str(plan.sampler) for plan in plans}
        hashes = {name: hash_ for name, hash_ in self._hashes.items() if name in used}
        answer = self._client.ask("start", {**self._who, "plans": plans_said(plans), "hashes": hashes})
        return [int(episode) for episode in answer.head["episodes"]]

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        body = turns_message(entries)
        self._client.ask("turns", {**self._who, **body.head}, body.rest)

    def finish(self, endings: Sequence[Ending]) -> None:
        self._client.ask("finish", {**self._who, "endings": endings_said(endings)})
