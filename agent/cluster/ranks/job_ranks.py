"""The ranks of a learning job as its process gets them: by torchrun, from the cluster's process, or as children on this machine.

One rank is the normal case, and does nothing here. Left out: what ranks do (`learners/ranks/`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perdure.agent.cluster.placement import ClusterPiece, Placement
from perdure.agent.cluster.ranks.rank_requests import ask_for_ranks, ends_of_ranks, waiting_lines, waits_of_ranks, withdraw_ranks
from perdure.agent.config import Config
from perdure.agent.processes.pulse import Pulse
from perdure.learners.learning_job import Interrupted
from perdure.learners.ranks.ranks import ALONE, Ranks
from perdure.memory.errors import Unavailable

GRACE_S = 5.0
"""A rank's, from the end of its job to SIGKILL."""


def is_under_torchrun() -> bool:
    """Whether torchrun started this process as one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def torchrun_number() -> int:
    """Which of the ranks this process is."""
    return int(os.environ["RANK"])


@contextmanager
def ranks_of_job(home: Path, config: Config, job: int, attempt: int, stop: Callable[[], bool], pulse: Pulse) -> Iterator[Ranks]:
    """The ranks with which a learning job goes on; they end with the block.

    Raises `Unavailable` if they do not come in time, or one of them ends, and `Interrupted` if the job is stopped while it waits.
    """
    if is_under_torchrun():
        with torchrun_ranks(config) as group:
            yield group
        return
    if config.cluster.learners == 1:
        yield ALONE
        return
    from perdure.learners.ranks.leading import ending
    from perdure.learners.ranks.process_group import Door, RankOrder, order_bytes

    door = Door(config.cluster.listen, config.cluster.learners, float(config.cluster.learner_timeout_s))
    pieces = [
        ClusterPiece(
            key=f"job-{job}.{attempt}-rank-{number}",
            kind="rank",
            order=order_bytes(RankOrder(meeting=door.meeting, number=number, device=config.device)),
            needs=config.cluster.learner_needs,
        )
        for number in range(1, config.cluster.learners)
    ]
    with _started(home, config, job, pieces) as started:
        working = pulse.latest
        try:
            group = door.join(config.device, config.cluster.start_timeout_s, partial(_look, job, started, stop, pulse))
        except Unavailable as error:
            raise Unavailable("; ".join([str(error), *started.waits()])) from error
        pulse.say(*working)
        try:
            with ending(group):
                yield group
        finally:
            group.close()


@contextmanager
def torchrun_ranks(config: Config) -> Iterator[Ranks]:
    """The ranks that torchrun started with this process, which is the first."""
    from perdure.learners.ranks.leading import ending
    from perdure.learners.ranks.process_group import device_of, join_torchrun

    group = join_torchrun(device_of(config.device), config.cluster.learner_timeout_s)
    try:
        with ending(group):
            yield group
    finally:
        group.close()


def follow_torchrun(home: Path, config: Config, stop: Callable[[], bool]) -> None:
    """Be one of the ranks that torchrun started, but not the first, until the job ends."""
    from perdure.agent.home import cache_dir
    from perdure.learners.ranks.follower import follow
    from perdure.learners.ranks.process_group import device_of, join_torchrun
    from perdure.learners.weights.base_models import resolve_model

    def say(line: str) -> None:
        print(line, flush=True)

    device = device_of(config.device)
    group = join_torchrun(device, config.cluster.learner_timeout_s)
    try:
        follow(group, device, lambda name: resolve_model(name, cache_dir(), say, home), stop, say)
    finally:
        group.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _StartedRanks:
    """What can be asked about ranks that were asked for."""

    ends: Callable[[], list[str]]
    """How any of them ended before its time."""
    waits: Callable[[], list[str]]
    """Why any of them is not placed yet."""


@contextmanager
def _started(home: Path, config: Config, job: int, pieces: list[ClusterPiece]) -> Iterator[_StartedRanks]:
    """Have these ranks started."""
    if config.cluster.address:
        ask_for_ranks(home, job, pieces)
        try:
            yield _StartedRanks(ends=lambda: ends_of_ranks(home, job), waits=lambda: waits_of_ranks(home, job))
        finally:
            withdraw_ranks(home, job)
        return
    from perdure.agent.cluster.local_placement import LocalPlacement

    placement: Placement = LocalPlacement()
    try:
        for piece in pieces:
            placement.start(piece)
        yield _StartedRanks(
            ends=lambda: [f"{end.key}: {end.error}" for end in placement.ended(0.0) if end.error is not None],
            waits=lambda: waiting_lines(placement.standing()),
        )
        for piece in pieces:
            placement.stop(piece.key, GRACE_S)
    finally:
        placement.close()


def _look(job: int, started: _StartedRanks, stop: Callable[[], bool], pulse: Pulse) -> None:
    pulse.say("waiting", "; ".join(started.waits()) or "for its ranks")
    if stop():
        raise Interrupted(f"job {job} was stopped while it waited for its ranks")
    if ended := started.ends():
        raise Unavailable(f"a rank of job {job} ended before it had come: {'; '.join(ended)}")
