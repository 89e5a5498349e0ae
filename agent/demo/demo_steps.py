"""The steps of the demonstration: Perdure's own commands, each shown before it runs, and what they left in the home.

1. A careless update: supervised, at a large rate, without replay. Its gate leaves the capability panel out, so that its pairs decide.
2. The default update. Its process is killed in the middle (SIGKILL), and the command that supervises it starts it again.
3. Scores of the three versions on the same held-out tasks, and on the panel.
4. A rollback, and the way back. The store is checked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import join

from perdure.agent.processes.own_command import running_command
from perdure.agent.processes.process_names import job_process
from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.stored_scores import known_result
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import LearnResult, ProbeResult
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.jobs import list_jobs, steps
from perdure.memory.leases import BootClock
from perdure.memory.processes import processes
from perdure.memory.store import FILE_NAME, Store, open_store
from perdure.memory.upkeep.integrity import check
from perdure.memory.versions import INITIAL, base_of

KILL_AFTER = 4
"""Updates."""
POLL_S = 0.1

CONFIG = "perdure.toml"
CARELESS_CONFIG = "careless.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What is learned, and how."""

    target: str = "perdure:door-code?shots=3"
    careless: tuple[str, ...] = ("sft", "lr=0.006", "replay=0", "epochs=4")
    """The learner and its options."""
    default: tuple[str, ...] = ("grpo",)
    probed_tasks: int = 48
    settings: str = "# The demonstration: everything else is the default.\nseed = 0\n"
    careless_settings: str = (
        "# For the careless update only: without the panel, which would refuse it before the first pair.\nseed = 0\n[gate]\npanel = false\n"
    )

    def learn(self, learner: str, *options: str) -> tuple[str, ...]:
        """The words of the command."""
        return "learn", learner, "--target", self.target, *(word for option in options for word in ("--option", option))


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A process that was killed while it learned, and what was in the store before and after."""

    after_update: int
    turns: int
    """In the store when it was killed."""
    lost: int
    """Of those, the turns that are no longer there."""
    repeated: int
    """Updates that were made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFacts:
    """What the demonstration found."""

    model: str
    seconds: float
    target: str
    """The environment that both updates are to learn."""
    careless: LearnResult
    default: LearnResult
    scores: Mapping[str, Mapping[str, float | None]]
    """By environment and version: greedy answers to the same held-out tasks."""
    panels: Mapping[str, PanelResult | None]
    """By version, without the base model."""
    crash: Crash | None
    """None if the job was over before it could be killed."""
    rollback_s: float
    """Of the whole command."""
    start_s: float
    """Of a command that only reads: what this machine takes, as busy as it is, to start one."""
    breaches: tuple[str, ...]
    """Errors that the check of the store found."""


def run_demo(folder: Path, say: Say, plan: DemoPlan = DemoPlan()) -> DemoFacts:
    """Run it in a folder that is made for it. Raises `InputError` if the folder is not empty, `RuntimeFailure` if a command fails."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists: the demonstration begins in a new folder; name another with --folder, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(plan.settings)
    (folder / CARELESS_CONFIG).write_text(plan.careless_settings)
    began_s = time.monotonic()
    demo = _Demo(folder, say)
    say("\n1. A careless update: supervised, at a large rate, without replay")
    careless = demo.learns(plan.learn(*plan.careless), CARELESS_CONFIG)
    demo.runs(("panel", careless.version), CONFIG)
    say("\n2. The default update; its process is killed in the middle")
    default, crash = demo.learns_and_is_killed(plan.learn(*plan.default))
    demo.runs(("panel", default.version), CONFIG)
    say("\n3. All three versions on the same held-out tasks")
    scores = {version: demo.probes(version, plan.probed_tasks) for version in (INITIAL, careless.version, default.version)}
    say("\n4. Back, and forth again")
    start_s, rollback_s = demo.goes_back_and_forth(default.version) if default.verdict == "promote" else (0.0, float("inf"))
    with open_store(demo.home) as store:
        return DemoFacts(
            model=base_of(store, INITIAL)[0],
            seconds=time.monotonic() - began_s,
            target=plan.target,
            careless=careless,
            default=default,
            scores={name: {version: of[name] for version, of in scores.items()} for name in scores[INITIAL]},
            panels={one.version: known_result(store, one.version, load_panel(store.home), "choice") for one in (careless, default)},
            crash=crash,
            rollback_s=rollback_s,
            start_s=start_s,
            breaches=tuple(finding.message for finding in check(store, BootClock()) if finding.level == "error"),
        )


class _Demo:
    """The home of a demonstration, and its commands."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._say = say

    def runs(self, words: tuple[str, ...], config: str | None, meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None) -> float:
        """Run a command to its end, and give its seconds. Raises `RuntimeFailure` if it fails; 1, 'the answer is no', is no failure."""
        configured = () if config is None else ("--config", str(self.folder / config))
        self._say(f"$ perdure {join(words)}")
        began_s = time.monotonic()
        with (
            (self.folder / "commands.log").open("ab") as log,
            running_command(self.home, (*words, *configured), stdout=log, stderr=None) as process,
        ):
            if meanwhile is not None:
                meanwhile(process)
            code = process.wait()
        if code not in (0, 1):
            raise RuntimeFailure(f"`perdure {join(words)}` ended with {code}; what happened until then is in {self.folder}")
        return time.monotonic() - began_s

    def learns(
        self, words: tuple[str, ...], config: str, meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None
    ) -> LearnResult:
        self.runs(words, config, meanwhile)
        with open_store(self.home) as store:
            result = list_jobs(store, 1)[0].result
        assert isinstance(result, LearnResult)
        verdict = {"promote": "promoted", "reject": "refused"}.get(result.verdict or "", "not promoted")
        self._say(f"{result.version} is {verdict}: {result.reason}")
        return result

    def learns_and_is_killed(self, words: tuple[str, ...]) -> tuple[LearnResult, Crash | None]:
        killed: list[_Killed] = []

        def kill(process: subprocess.Popen[bytes]) -> None:
            while process.poll() is None:
                time.sleep(POLL_S)
                if (found := _killed(self.home)) is not None:
                    self._say(f"kill -9 {found.pid}: the process that learns, after update {len(found.updates)}")
                    killed.append(found)
                    return

        result = self.learns(words, CONFIG, kill)
        if not killed:
            return result, None
        with open_store(self.home) as store:
            after, made = _turns(store), _updates(store, killed[0].job)
        return result, Crash(
            after_update=len(killed[0].updates),
            turns=len(killed[0].turns),
            lost=len(killed[0].turns - after),
            repeated=len(made) - len(set(made)) + len(set(killed[0].updates) - set(made)),
        )

    def probes(self, version: str, tasks: int) -> dict[str, float | None]:
        """The scores of a version, by environment."""
        self.runs(("probe", version, "--episodes", str(tasks)), CONFIG)
        with open_store(self.home) as store:
            result = list_jobs(store, 1)[0].result
        assert isinstance(result, ProbeResult)
        return {name: row.score for name, row in result.environments.items()}

    def goes_back_and_forth(self, version: str) -> tuple[float, float]:
        """Roll back and let the version serve again. Gives the seconds of a command that only reads, and those of the rollback."""
        start_s = self.runs(("version", "list"), None)
        seconds = self.runs(("version", "rollback", "--reason", "to see how long it takes"), None)
        self._say(f"{INITIAL} serves again after {seconds:.2f} s")
        self.runs(("version", "promote", version, "--reason", "its gate promoted it before"), None)
        return start_s, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Killed:
    """A job whose process was killed, and what was in the store just before."""

    pid: int
    job: int
    updates: list[int]
    turns: set[tuple[int, int]]


def _killed(home: Path) -> _Killed | None:
    """Kill the process of the job that learns, with all of its children, once it has made some updates; None if it has not yet."""
    if not (home / FILE_NAME).exists():
        return None
    with open_store(home) as store:
        job = list_jobs(store, 1)[0]
        pid = next((process.pid for process in processes(store) if process.name == job_process(job.id)), None)
        if job.state != "running" or pid is None or len(steps(store, job.id)) < KILL_AFTER:
            return None
        found = _Killed(pid=pid, job=job.id, updates=_updates(store, job.id), turns=_turns(store))
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return found


def _turns(store: Store) -> set[tuple[int, int]]:
    return {(row["episode"], row["n"]) for row in store.rows("SELECT episode, n FROM turn")}


def _updates(store: Store, job: int) -> list[int]:
    return [row["n"] for row in store.rows("SELECT n FROM step WHERE job = ? ORDER BY made_at", (job,))]
