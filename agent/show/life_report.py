"""A home's life as `perdure status` shows it: what comes next and why, where each anchor stands, and how many errors to expect.

It reads the store alone, with and without a daemon. Left out: the planner (`agent/planning/`), and what a statement says
(`learners/gate/lifetime.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.life_so_far import LifeSoFar, Standing
from perdure.agent.planning.next_step import next_step
from perdure.agent.planning.panel_care import PanelCare, panel_care, standing_line
from perdure.agent.planning.step_kinds import GateNext, LearnNext, NextStep, NothingNext
from perdure.learners.gate.lifetime import LifeStatement, life_statement
from perdure.learners.gate.promotion import lost_on_panel
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder
from perdure.memory.contracts.panel_json import panel_document
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.environments import anchor_of, environments_in_use
from perdure.memory.evidence.dev_scores import KnownScores, known_dev_scores
from perdure.memory.evidence.past_pairs import scores_of_references
from perdure.memory.gates import candidate_gates, differences_of
from perdure.memory.jobs import unfinished_jobs
from perdure.memory.json_value import Document
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRow:
    """The anchor of one environment, and where the serving version stands against it."""

    version: str
    score: float | None
    """Mean over the seeds that it played for gates, as the last one sampled; None if it played none."""
    standing: Standing | None
    """None if the serving version is the anchor, or was never compared with it."""

    def as_json(self) -> Document:
        return {
            "version": self.version,
            "score": self.score,
            "difference": None if self.standing is None else self.standing.difference,
            "pairs": 0 if self.standing is None else self.standing.pairs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeReport:
    """What `perdure status` says about the life so far and what comes next."""

    job: Job | None
    """The job that waits or is worked on; None if there is none."""
    step: NextStep
    """What the planner says now: it is asked when no job waits."""
    anchors: Mapping[str, AnchorRow]
    statement: LifeStatement
    panel: PanelResult | None
    """The serving version on the capability panel beside the base model; None if it was never scored."""
    care: PanelCare

    def line(self) -> str:
        """What comes next and why, in a sentence."""
        if self.job is None:
            return step_line(self.step)
        return f"job {self.job.id}: {why_of(self.job) or 'a person asked for it'}"

    def panel_line(self) -> str | None:
        """The serving version on the capability panel, in a sentence."""
        return None if self.panel is None else standing_line(self.panel, self.care)

    def as_json(self) -> Document:
        """The keys of `perdure status --json`."""
        return {
            "next": step_document(self.step) if self.job is None else job_step(self.job),
            "anchors": {name: row.as_json() for name, row in self.anchors.items()},
            "life": asdict(self.statement),
            "panel": None if self.panel is None else {**panel_document(self.panel), "kl_old_factor": self.care.factor},
        }


def life_report(store: Store, life: LifeSoFar | None = None) -> LifeReport | None:
    """None if no version serves yet. `life` is what is known of it; by default it is read."""
    life = life or read_life(store)
    if life is None:
        return None
    anchors = {row.name: anchor for row in environments_in_use(store) if (anchor := anchor_of(store, row.name)) is not None}
    others = {name: anchor for name, anchor in anchors.items() if anchor != life.serving}
    standings = {environment.name: environment.standing for environment in life.environments}
    results = [gate.result for gate in candidate_gates(store) if gate.result is not None and not lost_on_panel(gate.result)]
    scores = _scores(store, results[-1].temperature) if results else {}
    return LifeReport(
        job=next(iter(unfinished_jobs(store)), None),
        step=next_step(life),
        anchors={
            name: AnchorRow(version=anchor, score=scores.get((name, anchor)), standing=standings.get(name))
            for name, anchor in anchors.items()
        },
        statement=life_statement(
            results,
            differences=differences_of(store, life.serving, others),
            own=[name for name, anchor in anchors.items() if anchor == life.serving],
        ),
        panel=life.panel,
        care=panel_care(life),
    )


def _scores(store: Store, temperature: float) -> dict[tuple[str, str], float | None]:
    """Mean scores of versions as references, by environment and version, at the temperature at which gates sample."""
    dev, pairs = known_dev_scores(store, temperature), scores_of_references(store, temperature, None)
    none = KnownScores()
    return {key: (dev.get(key, none) + pairs.get(key, none)).mean for key in (*dev, *pairs)}


def why_of(job: Job) -> str | None:
    """Why the planner asked for a job; None if a person did."""
    return job.order.why if isinstance(job.order, LearnOrder | GateOrder) else None


def job_step(job: Job) -> Document:
    """A job that waits or is worked on, with the keys of `step_document`."""
    return {"step": job.kind, "why": why_of(job), "unfollowed": None, "targets": list(job.targets), "job": job.id}


def step_document(step: NextStep) -> Document:
    """A planned step with the keys of `perdure status --json`."""
    match step:
        case LearnNext():
            return {
                "step": "learn",
                "why": step.why,
                "unfollowed": step.unfollowed,
                "targets": list(step.targets),
                "aim": step.aim,
                "start": step.start,
            }
        case GateNext():
            return {"step": "gate", "why": step.why, "unfollowed": None, "targets": list(step.targets), "candidate": step.candidate}
        case NothingNext():
            return {"step": "nothing", "why": step.why, "unfollowed": step.unfollowed, "targets": []}


def step_line(step: NextStep) -> str:
    """A planned step in one sentence, with why nothing follows the last verdict if that is so."""
    match step:
        case LearnNext() if step.aim == "gain":
            line = f"learn {', '.join(step.targets)}: {step.why}"
        case _:
            line = step.why
    unfollowed = None if isinstance(step, GateNext) else step.unfollowed
    return f"{line} ({unfollowed})" if unfollowed else line


def anchor_rows(report: LifeReport) -> list[tuple[str, str, float | None, float | None, int]]:
    """For a table: environment, anchor, its score, mean difference of the serving version from it, and over how many pairs."""
    return [
        (
            name,
            row.version,
            row.score,
            None if row.standing is None else row.standing.difference,
            0 if row.standing is None else row.standing.pairs,
        )
        for name, row in report.anchors.items()
    ]
