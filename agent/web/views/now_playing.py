"""What happens now: episodes in play turn by turn, the job with its progress and the time left, the queue, and why nothing more happens.

Texts are cut by the database, so that a long observation costs no more than a short one. Left out: the rest of `perdure status`, and what
changed since the last look (`agent/web/live.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from perdure.agent.processes.process_names import SUPERVISOR, job_process
from perdure.agent.show.daemon_health import activity, troubles
from perdure.agent.show.short_names import short_names
from perdure.agent.show.update_line import update_line
from perdure.agent.web.views.cut_texts import bytes_of, decoded
from perdure.memory import jobs as job_store
from perdure.memory import tasks as task_store
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder, PanelOrder, ProbeOrder
from perdure.memory.environments import environments_in_use
from perdure.memory.gates import GateRow, open_gate_of
from perdure.memory.jobs import Step
from perdure.memory.json_value import Document, iso_utc, to_json
from perdure.memory.processes import Process, events, pauses, processes
from perdure.memory.store import Store

TEXT = 4000
"""Characters of a text that are read."""
EVENTS = 10
NEXT_TASKS = 5
PACE = 8
"""The time left is told from this many updates at most."""
AT_WORK = ("learning", "gating", "probing")


def now_document(store: Store, *, episodes: int = 8, turns: int = 12) -> Document:
    """The newest `episodes` in play with their last `turns` turns, and all else that goes on."""
    known = {process.name: process for process in processes(store)}
    state, reason, started = activity(store, known.get(SUPERVISOR))
    works = started is not None and state in AT_WORK
    waiting = job_store.unfinished_jobs(store)
    at_work = next((job for job in waiting if job.state != "queued"), None)
    playing, in_all = _playing(store, episodes, turns)
    return {
        "state": state,
        "serving": next((row["name"] for row in store.rows("SELECT name FROM version WHERE state = 'serving'")), None),
        "doing": reason if works else None,
        "idle": None if works else reason,
        "pauses": [one.as_json() for one in pauses(store)],
        "troubles": troubles(store, state, reason, started),
        "playing": playing,
        "playing_in_all": in_all,
        "job": None if at_work is None else _job(store, at_work, known),
        "queue": {
            "tasks": task_store.counts(store),
            "next": [task.as_json() for task in task_store.next_tasks(store, NEXT_TASKS)],
            "jobs": [job_store.as_json(job) for job in waiting if job is not at_work],
        },
        "events": [event.as_json() for event in events(store, EVENTS)],
    }


def _playing(store: Store, limit: int, turns: int) -> tuple[list[Document], int]:
    """Those with turns first, since an episode that has none shows nothing."""
    rows = store.rows(
        """
        SELECT e.id, e.environment, e.seed, e.purpose, e.member, e.task, e.job, e.started_at,
               coalesce(e.version, 'job ' || e.step_job || ' step ' || e.step_n) AS sampler,
               (SELECT count(*) FROM turn t WHERE t.episode = e.id) AS so_far
        FROM episode e INDEXED BY episode_running WHERE e.state = 'running'
        """
    )
    shown = sorted(rows, key=lambda row: (row["so_far"] == 0, -row["id"]))[:limit]
    texts = _turns(store, [row["id"] for row in shown], turns)
    short = short_names(sorted({row["environment"] for row in shown}))
    return [
        {
            "id": row["id"],
            "environment": row["environment"],
            "short": short[row["environment"]],
            "seed": row["seed"],
            "purpose": row["purpose"],
            "sampler": row["sampler"],
            "member": row["member"],
            "task": row["task"],
            "job": row["job"],
            "started": iso_utc(row["started_at"]),
            "turns_so_far": row["so_far"],
            "turns": texts.get(row["id"], []),
        }
        for row in shown
    ], len(rows)


def _turns(store: Store, episodes: Sequence[int], most: int) -> dict[int, list[Document]]:
    """The last turns of each of these episodes, the oldest first."""
    rows = store.rows(
        f"""
        SELECT t.episode, t.n, {bytes_of("t.observation")}, length(CAST(t.observation AS BLOB)) AS observation_bytes,
               {bytes_of("t.action")}, length(CAST(t.action AS BLOB)) AS action_bytes, t.reward, t.finish, {bytes_of("t.invalid")},
               length(t.action_ids) / 4 AS tokens, t.made_at
        FROM json_each(:episodes) shown JOIN turn t ON t.episode = shown.value
        WHERE t.n > (SELECT max(n) FROM turn WHERE episode = shown.value) - :most ORDER BY t.episode, t.n
        """,
        {"episodes": to_json(list(episodes)), "bytes": 4 * TEXT, "most": most},
    )
    found: dict[int, list[Document]] = {}
    for row in rows:
        turn = dict(row)
        made = turn.pop("made_at")
        turn |= {name: decoded(turn[name], TEXT) for name in ("observation", "action", "invalid")}
        found.setdefault(turn.pop("episode"), []).append({**turn, "made": iso_utc(made)})
    return found


def _job(store: Store, job: Job, known: Mapping[str, Process]) -> Document:
    made = job_store.steps(store, job.id)
    gate = open_gate_of(store, job.id)
    times = job_store.times_of(store, job.id)
    process = known.get(job_process(job.id))
    done, most, unit, pace_s = _progress(store, job, gate, made)
    left_s = None if done is None or most is None or pace_s is None else max(most - done, 0) * pace_s
    return {
        **job_store.as_json(job),
        "started": None if times.started is None else iso_utc(times.started),
        "phase": _phase(job),
        "done": done,
        "of": most,
        "unit": unit,
        "share": None if done is None or not most else min(done / most, 1.0),
        "seconds_left": left_s,
        "left": None if left_s is None else _left(left_s, at_most=gate is not None),
        "line": update_line(made[-1].update) if made and gate is None else process.detail if process is not None else None,
    }


def _phase(job: Job) -> str:
    if job.state in ("gating", "queued", "leased"):
        return "gating" if job.state == "gating" else "starting"
    match job.order:
        case LearnOrder():
            return "learning"
        case GateOrder():
            return "gating"
        case ProbeOrder() | PanelOrder():
            return "probing"


def _progress(store: Store, job: Job, gate: GateRow | None, made: Sequence[Step]) -> tuple[int | None, int | None, str, float | None]:
    """How many are done, of how many at most, of what, and how many seconds one takes; None if that is not known."""
    if gate is not None:
        [row] = store.rows("SELECT coalesce(max(draw) + 1, 0) AS rounds FROM pair WHERE gate = ?", (gate.id,))
        rounds = int(row["rounds"])
        return rounds, gate.terms.nmax, "rounds", (time.time() - gate.started) / rounds if rounds else None
    match job.order:
        case LearnOrder(options=options):
            updates = options.get("updates")
            return len(made), updates if isinstance(updates, int) else _default_updates(), "updates", _pace_s(made)
        case ProbeOrder(episodes=episodes, samples=samples):
            [row] = store.rows("SELECT count(*) AS n, min(started_at) AS at FROM episode WHERE job = ? AND state <> 'running'", (job.id,))
            environments = len(job.targets) or len(environments_in_use(store))
            pace_s = (time.time() - row["at"]) / row["n"] if row["n"] else None
            return int(row["n"]), episodes * samples * environments, "episodes", pace_s
        case _:
            return None, None, "rounds" if isinstance(job.order, GateOrder) else "items", None


def _pace_s(made: Sequence[Step]) -> float | None:
    """The seconds from one update to the next, in the median of the last ones."""
    at = [step.made for step in made[-PACE - 1 :]]
    between = [after - before for before, after in pairwise(at) if after > before]
    return median(between) if between else made[-1].update.seconds if made else None


def _default_updates() -> int:
    from perdure.learners.options import CommonLearnOptions

    default: Any = CommonLearnOptions.model_fields["updates"].default
    return int(default)


def _left(seconds: float, *, at_most: bool) -> str:
    words = "at most" if at_most else "about"
    if seconds < 90:
        return f"{words} {max(round(seconds), 1)} s"
    return f"{words} {round(seconds / 60)} min" if seconds < 5400 else f"{words} {seconds / 3600:.1f} h"
