"""Rewards that a person gives episodes that were played, each under the name of its source."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from perdure.memory.changes import Who, perform
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document, storable, to_json
from perdure.memory.store import Store
from perdure.memory.trajectories.rewards import add_rewards

MOST_SOURCE = 200
"""Characters of the name of a source."""
MOST_LISTED = 100
"""Rewards that the row of a change lists; of more it has their number and a hash."""


def judge(
    store: Store, by: Who, rewards: Mapping[int, float], *, source: str, reason: str | None = None, key: str | None = None
) -> Document:
    """Reward episodes, given by number, all or none; gives `{"source", "episodes"}` as `perdure episode reward --json`.

    They replace earlier rewards of the source. Raises `InputError` for a name that no source may have, a reward that is not finite, and an
    episode that is missing or did not complete.
    """
    if len(source) > MOST_SOURCE or storable(source) != source:
        raise InputError(f"{source[:40]!r} cannot be a source of rewards: give a name of at most {MOST_SOURCE} characters")
    episodes = list(rewards)

    def change() -> tuple[str, Document]:
        add_rewards(store, source, rewards)
        subject = f"episode {episodes[0]}" if len(episodes) == 1 else f"{len(episodes)} episodes"
        return subject, {"source": source, "episodes": episodes}

    given: Document = {str(episode): value for episode, value in rewards.items()}
    if len(given) > MOST_LISTED:
        given = {"episodes": len(given), "sha256": sha256(to_json(given).encode()).hexdigest()}
    return perform(store, change, by=by, what="episode reward", arguments={"source": source, "rewards": given}, reason=reason, key=key)
