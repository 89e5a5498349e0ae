"""The fault suite of a cluster: `make faults-cluster`. Kills what plays, judges, learns and writes elsewhere, and says what was left of it.

One home has a cluster of its own, `local`, and goes through all faults again and again; another has one that is not its own, whose head
dies. Ray is real, on this machine; the players' model is scripted, and learning has a tiny model. It ends early after `--minutes`, and the
table says how many kills there were. Exit code 0 if nothing was broken, 1 otherwise.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from random import Random

from tests.agent.web.servers import free_port
from tests.faults.cases import rest
from tests.faults.cluster import cluster_cases as cases
from tests.faults.cluster.cluster_place import ClusterPlace
from tests.faults.cluster.cluster_table import BEGIN, END, ClusterTable, report
from tests.faults.cluster.other_cluster import OtherCluster
from tests.faults.place import ROOT, Stuck
from tests.faults.table import write_between_markers
from tests.tiny_models import tiny_llama

from perdure.agent.cluster.on_ray.own_ray import HEAD_HOST
from perdure.learners.weights.base_models import resolve_model

PAGE = ROOT / "docs" / "reliability.md"
KILLS = 60
OTHER_HEADS = 4
FAULTS_A_HOME = 18
"""Two rounds: a home that is used for long has so much in it that looking at all of it takes long."""

Fault = Callable[[ClusterPlace, Random, ClusterTable], None]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.cluster", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which something is killed")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many at least, if there is time")
    parser.add_argument("--minutes", type=float, default=60.0, help="no other kill is begun after so long")
    parser.add_argument("--record", type=Path, help="a file of what was found: a run that finds it goes on with that")
    parser.add_argument("--only", default="", help="a fault whose name begins with this, for trying out; the page is left alone")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="perdure-faults-cluster-"))
    say(f"homes are in {folder}")
    model = resolve_model(str(tiny_llama(folder / "model")), folder, say)
    goes_on = given.record is not None and given.record.exists()
    table, stuck = ClusterTable(given.record or folder / "record"), list[str]()

    def time_is_up() -> bool:
        return time.monotonic() - began > 60 * given.minutes

    with ThreadPoolExecutor(2) as pool:
        lanes = []
        if given.only in ("", "other"):
            lanes.append(pool.submit(other_lane, folder / "other", model.path, Random(given.seed + 1), table, stuck, time_is_up))
        if given.only != "other":
            lanes.append(pool.submit(own_lane, folder / "own", model.path, Random(given.seed), table, stuck, given, time_is_up))
    for lane in lanes:
        lane.result()
    broken = [*table.broken, *stuck]
    if not given.only:
        write_between_markers(
            PAGE, report(table, cases.all_faults(), KILLS, broken, given.seed, None if goes_on else time.monotonic() - began), BEGIN, END
        )
    for line in broken:
        say(f"BROKEN {line}")
    print(table.markdown(), flush=True)
    say(f"{table.times} kills, {len(broken)} broken rules, {time.monotonic() - began:.0f} s")
    if not broken:
        shutil.rmtree(folder)
    return 1 if broken else 0


def faults_of_round(n: int) -> list[tuple[str, Fault]]:
    """What one home goes through, by short names; every other round has another of those that take long."""

    def node(place: ClusterPlace, random: Random, table: ClusterTable) -> None:
        cases.kill_node(place, random, table, (cases.RAYLET, cases.NODE)[n % 2])

    def cluster(place: ClusterPlace, random: Random, table: ClusterTable) -> None:
        cases.kill_cluster(place, random, table, (cases.CLUSTER, cases.OWN_HEAD)[n % 2])

    return [
        ("player", cases.kill_player),
        ("journal", cases.kill_journal),
        ("node", node),
        ("journal", cases.kill_journal),
        ("judge", cases.kill_judge),
        ("player", cases.kill_player),
        ("journal", cases.kill_journal),
        ("cluster", cluster),
        ("rank", cases.kill_rank),
    ]


def own_lane(
    folder: Path,
    model: Path,
    random: Random,
    table: ClusterTable,
    stuck: list[str],
    given: argparse.Namespace,
    time_is_up: Callable[[], bool],
) -> None:
    """A cluster of our own, in which everything dies. If it does not come back, another home begins with the next fault."""
    rounds = ((name, fault) for n in count() for name, fault in faults_of_round(n) if given.only in ("", name))

    def over() -> bool:
        own = table.times - table.times_of(cases.OTHER_HEAD)
        return own >= given.kills - (0 if given.only else OTHER_HEADS) or time_is_up()

    for home in count():
        if over():
            return
        with noted(stuck), ClusterPlace(folder / str(home), model) as place:
            say(f"all play after {place.all_play(place.start()):.0f} s")
            for name, fault in islice(rounds, FAULTS_A_HOME):
                before = time.monotonic()
                fault(place, random, table)
                say(f"{table.times} kills; {name} took {time.monotonic() - before:.0f} s")
                if over():
                    break
            rest(place)


def other_lane(folder: Path, model: Path, random: Random, table: ClusterTable, stuck: list[str], time_is_up: Callable[[], bool]) -> None:
    """A cluster that is not ours, whose head dies and comes back."""
    if time_is_up() or table.times_of(cases.OTHER_HEAD) >= OTHER_HEADS:
        return
    address = f"{HEAD_HOST}:{free_port()}"
    with noted(stuck), ClusterPlace(folder, model, address, learners=1) as place, OtherCluster(folder, address) as other:
        place.home.mkdir(parents=True, exist_ok=True)
        other.start()
        say(f"all play in the other's cluster after {place.all_play(place.start(), other.mend):.0f} s")
        while table.times_of(cases.OTHER_HEAD) < OTHER_HEADS:
            before = time.monotonic()
            cases.kill_other_head(place, other, random, table)
            say(f"{table.times} kills; the other's head took {time.monotonic() - before:.0f} s")
            if time_is_up():
                break
        rest(place)  # before its cluster ends


@contextmanager
def noted(stuck: list[str]) -> Iterator[None]:
    """What did not come is one more thing that is broken, and the suite goes on."""
    try:
        yield
    except Stuck as error:
        stuck.append(str(error).partition("\n")[0])
        say(f"STUCK {error}")


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
