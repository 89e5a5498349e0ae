"""The fault suite: `make faults`. Kills the daemon and its children in every way, looks at what is left, and writes docs/reliability.md.

Two lanes run beside each other: one in which actors and supervisors die while they play, and one in which learners, supervisors and
commands die while jobs work. When one of them is through, processes of an environment die, and pages. The conditions of the machine come
after them, one by one, and last a round with the real engine. Exit code 0 where nothing was broken, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from tests.faults import cases, conditions
from tests.faults.conditions import Impossible
from tests.faults.games import CHAIN
from tests.faults.place import ROOT, Place
from tests.faults.table import Condition, Table, conditions_markdown, markdown, write_between_markers
from tests.tiny_models import tiny_llama

from perdure.agent.home import cache_dir
from perdure.learners.weights.base_models import DEFAULT_MODEL, ModelFiles, resolve_model
from perdure.memory.layout.sqlite_library import sqlite3

PAGE = ROOT / "docs" / "reliability.md"
PLAY_ROUNDS = 80
"""Three kills each."""
LEARN_ROUNDS = 5
"""Each goes once through every point of the learner, with three random kills of learners and three of supervisors."""
ENVIRONMENT_KILLS = 20
PAGE_KILLS = 10
"""While an actor plays, and as many while a job works."""
ENGINE_KILLS = 3
ROUNDS_A_HOME = 8
"""A home that is used for long has so much in it that looking at all of it takes long."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which something is killed")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="perdure-faults-"))
    say(f"homes are in {folder}")
    model = resolve_model(str(tiny_llama(folder / "model")), folder, say)
    table, engine = Table(), Table(limit_s=None)
    with ThreadPoolExecutor(2) as pool:
        lanes = [
            pool.submit(play_lane, folder / "play", model, Random(given.seed), table),
            pool.submit(learn_lane, folder / "learn", model, Random(given.seed + 1), table),
            pool.submit(environment_lane, folder / "environment", model, Random(given.seed + 2), table),
            pool.submit(page_lane, folder / "page", model, table),
        ]
        if any(lane.exception() for lane in as_completed(lanes)):
            table.ends.set()
    for lane in lanes:
        lane.result()
    found = [condition(folder / name, model, name, look) for name, look in conditions.conditions()]
    skipped = engine_round(folder / "engine", engine)
    broken = [*table.broken, *engine.broken, *(f"{one.name}: {line}" for one in found for line in one.broken)]
    write_between_markers(PAGE, report(table, engine, skipped, found, given.seed, time.monotonic() - began))
    for line in broken:
        say(f"BROKEN {line}")
    say(f"{table.times + engine.times} kills, {len(broken)} broken rules, {time.monotonic() - began:.0f} s; {PAGE} is written")
    if not broken:
        shutil.rmtree(folder)
    return 1 if broken else 0


def play_lane(folder: Path, model: ModelFiles, random: Random, table: Table) -> None:
    """Actors that die at every point of theirs in turn, and actors and supervisors that die at any moment."""
    points = list(cases.PLAYING)
    for start in range(0, PLAY_ROUNDS, ROUNDS_A_HOME):
        with Place(folder / str(start), model.path) as place:
            for n in range(start, min(start + ROUNDS_A_HOME, PLAY_ROUNDS)):
                cases.play(place, points[n % len(points)], random, table)
        say(f"{table.times} kills")
        if table.ends.is_set():
            break


def learn_lane(folder: Path, model: ModelFiles, random: Random, table: Table) -> None:
    """Learners that die at every point of theirs, learners and supervisors that die while a job works, commands beside a daemon."""
    for point in cases.AT_START:
        with Place(folder / point, model.path) as place:
            cases.start(place, point, table)
    for n in range(LEARN_ROUNDS):
        with Place(folder / str(n), model.path) as place:
            place.serves_after(place.start())
            for points in cases.LEARNING:
                cases.learn(place, points, random, table)
                cases.kill_learner_and_supervisor(place, random, table)
            for fault in cases.COMMANDS:
                for _ in range(fault.times):
                    cases.command(place, fault, table)
            cases.rest(place)
        say(f"{table.times} kills")
        if table.ends.is_set():
            break


def environment_lane(path: Path, model: ModelFiles, random: Random, table: Table) -> None:
    """Processes of an environment that die while it is played."""
    with Place(path, model.path, environments=(CHAIN,)) as place:
        place.serves_after(place.start())
        for _ in range(ENVIRONMENT_KILLS):
            cases.kill_environment(place, random, table)
        cases.rest(place)
    say(f"{table.times} kills")


def page_lane(path: Path, model: ModelFiles, table: Table) -> None:
    """Pages that die while an actor plays, and while a job works."""
    with Place(path, model.path) as place:
        place.serves_after(place.start())
        for fault in (cases.KILLED_PAGE, cases.PAGE_IN_JOB):
            for _ in range(PAGE_KILLS):
                cases.kill_page(place, table, fault)
        cases.rest(place)
    say(f"{table.times} kills")


def condition(path: Path, model: ModelFiles, name: str, look: Callable[[Path, ModelFiles], Condition]) -> Condition:
    """One condition, or why it could not be made."""
    say(name)
    try:
        return look(path, model)
    except Impossible as error:
        return Condition(name=name, done="not tried on this machine", seen=str(error))


def engine_round(path: Path, table: Table) -> str:
    """kill -9 of actor and supervisor with the default model; says why not where it is not here already."""
    if not any((cache_dir() / "models").glob(f"{DEFAULT_MODEL}-*")):
        return f"The real engine was not tried: the model {DEFAULT_MODEL} is not in {cache_dir()}, and the suite fetches nothing."
    say(f"the real engine, {DEFAULT_MODEL}")
    with Place(path, DEFAULT_MODEL, "tests.faults.engine_actor", ("perdure:copy-word?shots=3", CHAIN)) as place:
        place.serves_after(place.start())
        for _ in range(ENGINE_KILLS):
            cases.kill_supervisor(place, table, f"{cases.KILLED['supervisor']}, {DEFAULT_MODEL}")
            cases.kill_actor(place, table, f"{cases.KILLED['actor']}, {DEFAULT_MODEL}")
        cases.rest(place)
    return ""


def report(table: Table, engine: Table, skipped: str, found: list[Condition], seed: int, seconds: float) -> str:
    """What is written into the page."""
    cores = len(os.sched_getaffinity(0))
    about = (
        f"Run of {datetime.now(UTC):%d %B %Y} on {cores} cores ({platform.machine()}, {platform.system()} {platform.release()}), "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, seed {seed}: {table.times + engine.times} kills in "
        f"{seconds / 60:.0f} minutes."
    )
    return "\n\n".join(
        [
            about,
            markdown(sorted(table.rows(), key=lambda row: cases.all_faults().index(row.fault))),
            "### The real engine",
            skipped or markdown(engine.rows()),
            "### Other conditions",
            conditions_markdown(found),
        ]
    )


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
