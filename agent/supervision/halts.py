"""Why nothing may be played or learned now: a person paused it, or there is no room on the disk. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.agent.supervision.disk import DiskLack
from perdure.memory.processes import Pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Halts:
    """Each None if it may go on."""

    play: str | None = None
    """Why no task may be played."""
    learn: str | None = None
    """Why no job may be begun."""
    job: str | None = None
    """Why the job that runs must end; it is given back and resumes later."""


def halts(lack: DiskLack, pauses: Sequence[Pause]) -> Halts:
    """What is halted. Without room to learn a running job may finish; without room to play it must end too."""
    paused = {one.what: f"{one.what} is paused: {one.reason}; `perdure resume {one.what}` goes on" for one in pauses}
    play = lack.play and f"play and learning wait for room: {lack.play}"
    learn = lack.learn and f"learning waits for room: {lack.learn}"
    return Halts(play=paused.get("play") or play, learn=paused.get("learning") or learn, job=paused.get("learning") or play)
