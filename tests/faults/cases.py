"""The faults, one function for each way to bring one about. Every one ends with a daemon that serves again and a home that was examined.

Each fault point of `memory/faults.py` is in exactly one of the lists here; `test_faults.py` holds this.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from tests.faults.place import Place, Stuck, descendants_of, lives
from tests.faults.table import Table

from perdure.memory.faults import Point
from perdure.memory.schema import MIGRATIONS

PLAYING: dict[Point, int] = {"mid-lease": 4, "after-lease": 4, "mid-batch": 20, "after-batch": 20, "mid-ending": 8}
"""Points that an actor comes to again and again; one of the first so many times is drawn."""

LEARNING: tuple[dict[Point, int], ...] = (
    {"mid-optimiser-step": 2, "mid-candidate-write": 1, "between-file-and-row": 1},
    {"mid-pairs": 2, "mid-gate": 2, "between-verdict-and-promotion": 1},
    {"mid-panel": 1, "mid-election": 1},
    {"between-step-and-checkpoint": 2, "mid-promotion": 1},
)
"""Points on the way of a learner. Those of one group can befall one job in turn, each a process further on; the third death fails it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFault:
    """A point that a command comes to, beside a daemon that plays."""

    point: Point
    arguments: tuple[str, ...]
    undo: tuple[str, ...] = ()
    """Run after the command has succeeded at last, so that it can be tried again. `{serving}` is the version that served before."""
    alone: bool = False
    """Whether no daemon may run beside it."""
    times: int = 2
    """How often `make faults` brings it about in one home."""
    wants: str = ""
    """A count that is waited for before: of what the command works on."""


ARCHIVE = ("store", "archive", "--older-than", "0d")
CLOSED = "SELECT count(*) FROM turn t JOIN episode e ON e.id = t.episode JOIN task k ON k.id = e.task WHERE k.state = 'done'"
COMMANDS: tuple[CommandFault, ...] = (
    CommandFault(
        point="mid-rollback",
        arguments=("version", "rollback", "--reason", "a fault"),
        undo=("version", "promote", "{serving}", "--reason", "again"),
    ),
    CommandFault(point="mid-change", arguments=("version", "pin", "v0"), undo=("version", "pin", "v0", "--off")),
    CommandFault(point="mid-backup", arguments=("store", "backup", "copy.db", "--force")),
    CommandFault(point="mid-shard", arguments=ARCHIVE, alone=True, times=1, wants=CLOSED),
    CommandFault(point="between-shard-and-index", arguments=ARCHIVE, alone=True, times=1, wants=CLOSED),
    CommandFault(point="mid-archive", arguments=ARCHIVE, alone=True, times=1, wants=CLOSED),
    CommandFault(point="mid-prune", arguments=("store", "prune", "--keep-episodes", "1"), alone=True, times=1),
)
AT_START: tuple[Point, ...] = ("mid-migration",)
"""Points on the way to a new home."""

ELSEWHERE: tuple[Point, ...] = ("before-answer", "after-answer")
"""Points of the journal and of players elsewhere; `tests/faults/cluster` and `tests/agent/cluster/test_players.py` bring them about."""

KILLED = {name: f"kill -9 of the {name}" for name in ("actor", "learner", "supervisor")}
KILLED_ENVIRONMENT = "kill -9 of an environment's process"
KILLED_PAGE = "kill -9 of the web process"
PAGE_IN_JOB = "kill -9 of the web process while a job works"
ABORTED = "SELECT count(*) FROM episode WHERE state = 'aborted'"
FAILED = "SELECT count(*) FROM episode WHERE state = 'env_error'"
SUPERVISOR_IN_JOB = "kill -9 of the supervisor while a job works"


def play(place: Place, point: Point, random: Random, table: Table) -> None:
    """An actor that dies at a point, then the supervisor at any moment, then the actor at any moment; then an orderly stop."""
    (number,) = place.arm("actor", f"{point}:{random.randint(1, PLAYING[point])}")
    place.start()
    dead, moment = place.dies("actor", number)
    table.add(point, place.serves_after(moment, not_by=[dead]), place.examine())
    place.sees_kill()
    linger(random, 0.3)
    kill_supervisor(place, table, KILLED["supervisor"], early_s=random.uniform(0.0, 2.0) if random.random() < 0.3 else None)
    linger(random, 0.3)
    kill_actor(place, table)
    rest(place)


def kill_supervisor(place: Place, table: Table, fault: str, early_s: float | None = None) -> None:
    """Serving again is counted from the start of the next one. With `early_s` that one dies too, so soon after its start."""
    orphans = place.children()
    place.kill()
    moment = place.start()
    if early_s is not None:
        time.sleep(early_s)
        orphans += place.children()
        place.kill()
        moment = place.start()
    table.add(fault, place.serves_after(moment, not_by=orphans), place.examine())


def kill_actor(place: Place, table: Table, fault: str = KILLED["actor"]) -> None:
    """Serving again is counted from the kill: the supervisor sees it and starts another."""
    actor = place.child("actor")
    if actor is None:
        raise Stuck(f"the daemon has no actor\n{place.logs()}")
    os.kill(actor, signal.SIGKILL)
    moment = time.monotonic()
    table.add(fault, place.serves_after(moment, not_by=[actor]), place.examine())
    place.sees_kill()


def kill_environment(place: Place, random: Random, table: Table) -> None:
    """A process of an environment is killed, of one episode or of all: episodes fail, and the actor plays on."""
    actor, failed = place.child("actor"), place.ask(FAILED)
    if actor is None:
        raise Stuck(f"the daemon has no actor\n{place.logs()}")
    moment = 0.0

    def killed_one() -> bool:
        """One that was about to be closed ends no episode, so that another is tried."""
        nonlocal moment
        games = [pid for pid in descendants_of(actor) if lives(pid)]
        if games:
            moment = time.monotonic()
            with suppress(ProcessLookupError):
                os.kill(random.choice(games), signal.SIGKILL)
            linger(random, 0.2)
        return bool(place.ask(FAILED) > failed)

    place.wait("an episode whose environment has failed", killed_one)
    table.add(KILLED_ENVIRONMENT, place.serves_after(moment), place.examine())
    if place.child("actor") != actor:
        raise Stuck(f"the actor did not live on\n{place.logs()}")


def kill_page(place: Place, table: Table, fault: str = KILLED_PAGE) -> None:
    """The page is killed: another answers soon, and neither actor nor job notice. Serving again is the page's next answer."""
    job = some_job(place) if fault == PAGE_IN_JOB else None
    if job is not None:
        place.wait("a job at work", lambda: place.job(job).state not in ("queued", "leased"))
    place.wait("the page", place.page.answers)
    page, actor, aborted = place.child("web.program"), place.child("actor"), place.ask(ABORTED)
    attempt = None if job is None else place.job(job).attempt
    if page is None or actor is None:
        raise Stuck(f"the daemon has no page, or no actor\n{place.logs()}")
    os.kill(page, signal.SIGKILL)
    moment = time.monotonic()
    place.serves_after(moment)
    place.wait("another page", lambda: place.child("web.program") not in (None, page) and place.page.answers())
    table.add(fault, time.monotonic() - moment, place.examine())
    place.sees_kill()
    if place.child("actor") != actor or place.ask(ABORTED) != aborted:
        raise Stuck(f"the actor did not play on\n{place.logs()}")
    if job is not None:
        if place.job_ends(job).state != "done" or place.job(job).attempt != attempt:
            raise Stuck(f"the job did not go on\n{place.logs()}")
        place.serves_after(time.monotonic())


def learn(place: Place, points: dict[Point, int], random: Random, table: Table) -> None:
    """One job, whose process dies at each of these points in turn; where the daemon gives it up before, another job takes its place."""
    numbers = place.arm("learner", *(f"{point}:{random.randint(1, most)}" for point, most in points.items()))
    for point, number in zip(points, numbers, strict=True):
        some_job(place)
        dead, moment = place.dies("learner", number)
        table.add(point, place.serves_after(moment, not_by=[dead]), place.examine())
        place.sees_kill()
    settle(place)


def kill_learner_and_supervisor(place: Place, random: Random, table: Table) -> None:
    """A learner that is killed at any moment of its life, and a supervisor while a job works; then the job comes to its end."""
    job, learner = learner_at_any_moment(place, random)
    os.kill(learner, signal.SIGKILL)
    moment = time.monotonic()
    table.add(KILLED["learner"], place.serves_after(moment), place.examine())
    if place.job(job).state != "done":  # then it was on its way out, and its death is no news
        place.sees_kill()
    job = some_job(place)
    place.wait("a job at work", lambda: place.job(job).state in ("running", "gating", "done", "failed"))
    linger(random, 1.0)
    kill_supervisor(place, table, SUPERVISOR_IN_JOB)
    settle(place)


def learner_at_any_moment(place: Place, random: Random) -> tuple[int, int]:
    """A job and its process, at any moment of its life. One that ends before its moment has come makes room for another."""
    while True:
        job = some_job(place)
        place.wait("a learner", lambda: place.child("learner") is not None)
        if random.random() < 0.7:  # most of its life is spent on imports
            place.wait("a job at work", lambda job=job: place.job(job).state not in ("queued", "leased"))
        linger(random, 1.2)
        learner = place.child("learner")
        if learner is not None:
            return job, learner


def command(place: Place, fault: CommandFault, table: Table) -> None:
    """A command that dies at a point leaves nothing half done, and does its work when it is called again."""
    if fault.wants:
        place.wait(f"work for {' '.join(fault.arguments)}", lambda: place.ask(fault.wants) > 0)
    if fault.alone:
        rest(place)
    before = place.ask("SELECT max(id) FROM move")
    died = place.run(*fault.arguments, fault=fault.point)
    if died.returncode != -signal.SIGKILL:
        raise Stuck(f"{' '.join(fault.arguments)} did not come to {fault.point}: it ended with {died.returncode}: {died.stderr}")
    moment = place.start() if fault.alone else time.monotonic()
    table.add(fault.point, place.serves_after(moment), place.examine())
    if place.ask(f"SELECT count(*) FROM move WHERE id > {before} AND reason NOT LIKE 'live play in %'"):  # as the watch does by itself
        raise Stuck(f"{fault.point} has changed which version serves")
    serving = place.ask("SELECT name FROM version WHERE state = 'serving'")
    if fault.alone:
        rest(place)
    for arguments in (fault.arguments, fault.undo):
        if arguments:
            succeed(place, *(word.format(serving=serving) for word in arguments))
    if fault.alone:
        place.serves_after(place.start())


def start(place: Place, point: Point, table: Table) -> None:
    """A new home, whose maker dies at each migration in turn; then a daemon takes it."""
    for n in range(1, len(MIGRATIONS) + 1):
        died = place.makes_home(f"{point}:{n}")
        if died.returncode != -signal.SIGKILL:
            raise Stuck(f"the home was made without {point} {n}: it ended with {died.returncode}: {died.stderr}")
    moment = place.start()
    table.add(point, place.serves_after(moment), place.examine())
    rest(place)


def rest(place: Place) -> None:
    """An orderly stop, after which nothing is under way."""
    place.stop()
    told = place.examine(at_rest=True)
    if told.any:
        raise Stuck(f"after an orderly stop: {told}")


def some_job(place: Place) -> int:
    """A learning job that is not done yet, queued now where there is none."""
    with suppress(IndexError):
        return int(place.ask("SELECT id FROM job WHERE kind = 'learn' AND state NOT IN ('done', 'failed') ORDER BY id"))
    return place.queue_job()


def settle(place: Place) -> None:
    """Let every job come to its end."""
    place.wait("the jobs to end", lambda: place.ask("SELECT count(*) FROM job WHERE state NOT IN ('done', 'failed')") == 0, every_s=0.05)


def succeed(place: Place, *arguments: str) -> None:
    done = place.run(*arguments)
    if done.returncode != 0:
        raise Stuck(f"`perdure {' '.join(arguments)}` ended with {done.returncode}: {done.stderr}")


def linger(random: Random, most_s: float) -> None:
    time.sleep(random.uniform(0.0, most_s))


def points_with_a_case() -> list[Point]:
    return [*PLAYING, *(point for group in LEARNING for point in group), *(fault.point for fault in COMMANDS), *AT_START, *ELSEWHERE]


def all_faults() -> list[str]:
    """What the table has a row for, in its order."""
    points = [point for point in points_with_a_case() if point not in ELSEWHERE]
    return [*points, *KILLED.values(), SUPERVISOR_IN_JOB, KILLED_ENVIRONMENT, KILLED_PAGE, PAGE_IN_JOB]
