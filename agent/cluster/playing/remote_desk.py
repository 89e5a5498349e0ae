"""Tasks and journal of a process elsewhere: what `agent/processes/live_desk.py` and `StoreJournal` are on the head, over HTTP.

Tasks are leased in batches, about as many as there are places. A call returns when what it says is in the head's database.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.wire import endings_said, plans_said, read_task, turns_message
from perdure.agent.config import PlaySection
from perdure.agent.processes.live_shift import LeasedTask
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


class RemoteJournal:
    """The journal of a player (`envs/rollout.py:Journal`). Raises what the head's journal raises."""

    def __init__(self, client: JournalClient, player: str, hashes: Mapping[str, str]) -> None:
        """`hashes` are those of the versions that this player has loaded, by name."""
        self._client = client
        self._player = player
        self._hashes = hashes

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        used = {str(plan.sampler) for plan in plans}
        hashes = {name: hash_ for name, hash_ in self._hashes.items() if name in used}
        answer = self._client.ask("start", {"player": self._player, "plans": plans_said(plans), "hashes": hashes})
        return [int(episode) for episode in answer.head["episodes"]]

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        body = turns_message(entries)
        self._client.ask("turns", {"player": self._player, **body.head}, body.rest)

    def finish(self, endings: Sequence[Ending]) -> None:
        self._client.ask("finish", {"player": self._player, "endings": endings_said(endings)})
