"""The fault suite of a cluster: `make faults-cluster`. Kills what plays, judges, learns and writes elsewhere, and says what was left of it.

One home has a cluster of its own, `local`, and goes through all faults again and again; another has one that is not its own, whose head
dies. Ray is real, on this machine; the players' model is scripted, and learning has a tiny model. It ends early after `--minutes`, and the
table says how many kills there were. Exit code 0 if nothing was broken, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from random import Random

from tests.agent.web.servers import free_port
from tests.faults.cases import rest
from tests.faults.cluster import cluster_cases as cases
from tests.faults.cluster.cluster_place import ClusterPlace
from tests.faults.cluster.cluster_table import BEGIN, END, ClusterTable
from tests.faults.place import ROOT, Stuck
from tests.faults.table import write_between_markers
from tests.tiny_models import tiny_llama

from perdure.agent.cluster.on_ray.own_ray import HEAD_HOST
from perdure.learners.weights.base_models import resolve_model

PAGE = ROOT / "docs" / "reliability.md"
KILLS = 60
OTHER_HEADS = 4
ROUNDS_A_HOME = 4

Fault = Callable[[ClusterPlace, Random, ClusterTable], None]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.cluster", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which something is killed")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many at least, if there is time")
    parser.add_argument("--minutes", type=float, default=60.0, help="no other kill is begun after so long")
    parser.add_argument("--only", default="", help="a fault whose name begins with this, for trying out; the page is left alone")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="perdure-faults-cluster-"))
    say(f"homes are in {folder}")
    model = resolve_model(str(tiny_llama(folder / "model")), folder, say)
    table, random = ClusterTable(), Random(given.seed)

    def time_is_up() -> bool:
        return time.monotonic() - began > 60 * given.minutes

    stuck: list[str] = []
    try:
        own_lane(folder / "own", model.path, random, table, given.kills - OTHER_HEADS, given.only, time_is_up)
        if not given.only or given.only == "other":
            other_lane(folder / "other", model.path, random, table, time_is_up)
    except Stuck as error:
        stuck = [str(error).partition("\n")[0]]
        say(f"STUCK {error}")
    broken = [*table.broken, *stuck]
    if not given.only:
        write_between_markers(PAGE, report(table, broken, given.seed, time.monotonic() - began), BEGIN, END)
    for line in broken:
        say(f"BROKEN {line}")
    print(table.markdown(), flush=True)
    say(f"{table.times} kills, {len(broken)} broken rules, {time.monotonic() - began:.0f} s")
    if not broken:
        shutil.rmtree(folder)
    return 1 if broken else 0


def faults() -> Iterator[Fault]:
    """In the order in which one home goes through them, again and again."""
    for n in count():
        yield cases.kill_player
        yield cases.kill_journal
        yield cases.kill_judge
        yield lambda place, random, table, n=n: cases.kill_node(place, random, table, (cases.RAYLET, cases.NODE)[n % 2])  # type: ignore[misc]
        yield cases.kill_player
        yield cases.kill_journal
        yield lambda place, random, table, n=n: cases.kill_cluster(  # type: ignore[misc]
            place, random, table, (cases.CLUSTER, cases.OWN_HEAD)[n % 2]
        )
        yield cases.kill_rank


NAMES = ("player", "journal", "judge", "node", "player", "journal", "cluster", "rank")
"""Of the faults of a round."""


def own_lane(folder: Path, model: Path, random: Random, table: ClusterTable, kills: int, only: str, time_is_up: Callable[[], bool]) -> None:
    """A cluster of our own, in which everything dies."""
    one_after_the_other = enumerate(faults())
    for home in count():
        if table.times >= kills or time_is_up() or only == "other":
            return
        with ClusterPlace(folder / str(home), model) as place:
            say(f"all play after {place.all_play(place.start()):.0f} s")
            for n, fault in one_after_the_other:
                name = NAMES[n % len(NAMES)]
                if not only or name == only:
                    before = time.monotonic()
                    fault(place, random, table)
                    say(f"{table.times} kills; {name} took {time.monotonic() - before:.0f} s")
                if table.times >= kills or time_is_up() or (n + 1) % (ROUNDS_A_HOME * len(NAMES)) == 0:
                    break
            rest(place)


def other_lane(folder: Path, model: Path, random: Random, table: ClusterTable, time_is_up: Callable[[], bool]) -> None:
    """A cluster that is not ours, whose head dies and comes back."""
    address = f"{HEAD_HOST}:{free_port()}"
    with ClusterPlace(folder, model, address, learners=1) as place, cases.OtherCluster(folder, address) as other:
        place.home.mkdir(parents=True, exist_ok=True)
        other.start()
        say(f"all play after {place.all_play(place.start()):.0f} s")
        for _ in range(OTHER_HEADS):
            cases.kill_other_head(place, other, random, table)
            say(f"{table.times} kills")
            if time_is_up():
                break
        place.stop()


def report(table: ClusterTable, broken: list[str], seed: int, seconds: float) -> str:
    """What is written into the page."""
    cores = len(os.sched_getaffinity(0))
    about = (
        f"Run of {datetime.now(UTC):%d %B %Y} on {cores} cores ({platform.machine()}, {platform.system()}), Python "
        f"{platform.python_version()}, Ray {version('ray')}, seed {seed}: {table.times} kills in {seconds / 60:.0f} minutes"
        f"{'' if table.times >= KILLS else f', and not {KILLS}: it was ended early'}."
    )
    told = [f"- **{line}**" for line in broken]
    return "\n\n".join([about, table.markdown(), *(["\n".join(told)] if told else [])])


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
