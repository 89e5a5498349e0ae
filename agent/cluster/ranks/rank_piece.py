"""The piece that is one rank of a learning job: it meets the job's process and follows it (`learners/ranks/follower.py`)."""

from __future__ import annotations

from collections.abc import Callable

from perdure.agent.home import cache_dir


def run(order: bytes, stop: Callable[[], bool], say: Callable[[str], None]) -> bytes:
    """Follow the first rank of a job to its end; the answer is empty. Models are found, or fetched, as on the head.

    Raises `Unavailable` if the first rank does not answer, or is gone, and `InputError` if this node has another release or model.
    """
    from perdure.learners.ranks.follower import follow
    from perdure.learners.ranks.process_group import join, read_order
    from perdure.learners.weights.base_models import resolve_model

    asked = read_order(order)
    say(f"rank {asked.number} of {asked.meeting.count} meets the first at {asked.meeting.address}:{asked.meeting.port}")
    group = join(asked)
    try:
        follow(group, asked.device, lambda name: resolve_model(name, cache_dir(), say), stop, say)
    finally:
        group.close()
    return b""
