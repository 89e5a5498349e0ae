"""What answers say against their tokens, for `perdure store check`: of turns in the database, and of those in shards.

Left out: the comparison itself (`learners/weights/check_texts.py`).
"""

from __future__ import annotations

from perdure.agent.home import cache_dir
from perdure.learners.weights.base_models import find_model
from perdure.learners.weights.check_texts import text_comparison
from perdure.memory.errors import InputError, ShardLost
from perdure.memory.history.shard_files import shard_answers
from perdure.memory.history.shard_index import shards
from perdure.memory.store import Store
from perdure.memory.upkeep.check_digests import Progress, Visit
from perdure.memory.upkeep.integrity import Breach
from perdure.memory.versions import INITIAL, base_of


def text_visit(opened: Store, differing: list[Breach]) -> Visit:
    """Appends the turns whose text differs from their tokens. Raises `PerdureError` if the model is missing or another one."""
    name, digest = base_of(opened, INITIAL)
    files = find_model(name, cache_dir(), opened.home)
    if files is None:
        raise InputError(f"the model {name} is not on this machine")
    if files.hash != digest:
        raise InputError(f"{files.path} is not the model of this home, though it has its name")
    compare = text_comparison(files)

    def visit(episode: int, n: int, action_ids: bytes, action: bytes) -> None:
        if (said := compare(action_ids, action)) is not None:
            text = action.decode(errors="replace")
            differing.append(("error", f"episode {episode} turn {n}", f"says {text[:80]!r}, but its tokens say {said[:80]!r}"))

    return visit


def visit_shards(opened: Store, visit: Visit, differing: list[Breach], progress: Progress) -> None:
    """Give `visit` every answer in shards. A shard that cannot be read is appended too: it was whole when its digest was compared."""
    readable = [shard for shard in shards(opened) if shard.pruned_episodes < shard.episodes]
    done, total = 0, sum(shard.episodes for shard in readable)
    for shard in readable:
        try:
            for answer in shard_answers(opened, shard):
                visit(*answer)
        except ShardLost as error:
            differing.append(("error", shard.place, str(error)))
        done += shard.episodes
        progress(done, total)
