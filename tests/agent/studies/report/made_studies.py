"""Studies made by hand, in a folder as `study run` leaves them: known scores, so that a report of them can be checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from perdure.agent.metrics.observation import Observation, StageFacts, to_document
from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.study_file import open_study
from perdure.memory.json_value import Document

FIRST, SECOND, OTHER = "perdure:first-word?shots=2", "perdure:door-code?shots=3", "perdure:swap-words"
SKILLS = ("arithmetic", "refusal")
TEXT = "neutral_text"


def keep_study(folder: Path, cells: dict[str, Sequence[Document]], summary: Document | None = None, failed: str | None = None) -> Path:
    """Write a study with these cells, and one that failed with the message `failed`."""
    with open_study(folder) as file:
        for name, rows in cells.items():
            file.keep(CellResult(name=name, parameters={"cell": name}, made_by="abc1234", seconds=2.0, rows=tuple(rows)))
        if failed is not None:
            file.keep(CellResult(name="cell that failed", parameters={}, made_by="abc1234", seconds=1.0, error=failed))
    if summary is not None:
        (folder / f"{folder.name}.json").write_text(json.dumps(summary))
    return folder


def stream_cells(
    arms: dict[str, float], *, seeds: int = 3, items: int = 10, orders: Sequence[str] = ("",)
) -> dict[str, Sequence[Document]]:
    """Two stages: each learns its target up to .9. In the second, an arm forgets `arms[arm]` of the first and of all else.

    The base is right on 3 of 10 items of everything. A cell has one run.
    """
    return {
        f"{arm}, {order}, seed {seed}": [*map(to_document, _run(arm, forgets, order, seed, items))]
        for arm, forgets in arms.items()
        for order in orders
        for seed in range(seeds)
    }


def _run(arm: str, forgets: float, order: str, seed: int, items: int) -> Iterable[Observation | StageFacts]:
    rng = Random(f"{arm} {order} {seed}")
    first, second = (FIRST, SECOND) if not order.endswith("2") else (SECOND, FIRST)

    def right(share: float, stage: int, subject: str, measure: str = "sampled", update: int | None = None) -> Iterable[Observation]:
        wanted = round(items * min(1.0, max(0.0, share + rng.choice((-0.1, 0.0, 0.1)) * (stage > 0))))
        for item in range(items):
            yield Observation(
                arm=arm,
                order=order,
                seed=seed,
                stage=stage,
                update=update,
                subject=subject,
                item=str(item),
                measure=measure,
                score=float(item < wanted),
            )

    learned: dict[int, tuple[str, str, float]] = {
        1: (first, "promote", 0.0),
        2: (second, "reject" if forgets > 0.2 else "promote", forgets),
    }
    for stage in range(3):
        lost = sum(loss for at, (_, _, loss) in learned.items() if at <= stage)
        yield from right(0.3 if stage < 1 else 0.9 - lost, stage, first)
        yield from right(0.3 if stage < 2 else 0.9, stage, second)
        yield from right(0.3 - lost / 2, stage, OTHER)
        for skill in SKILLS:
            yield from right(0.8 - lost, stage, skill, "choice")
            yield from right(0.6 - lost, stage, skill, "strict")
        yield Observation(
            arm=arm, order=order, seed=seed, stage=stage, subject=TEXT, item="text-1", measure="cross_entropy", score=3.0 + lost / 4
        )
        if stage:
            target, verdict, loss = learned[stage]
            for update in (4, 8):
                yield from right(0.3 + 0.05 * update, stage, target, update=update)
                yield from right(0.3 - loss / 2 * update / 12, stage, OTHER, update=update)
                for measure, scale in (("kl_new", 0.01), ("kl_old", 0.005)):
                    yield Observation(
                        arm=arm,
                        order=order,
                        seed=seed,
                        stage=stage,
                        update=update,
                        subject=target,
                        item=f"update {update}",
                        measure=measure,
                        score=scale * update * (1 + loss) + 0.001 * seed,
                    )
            yield StageFacts(
                arm=arm,
                order=order,
                seed=seed,
                stage=stage,
                targets=(target,),
                updates=12,
                tokens=1000 * (1 + seed),
                seconds=20.0 + seed,
                verdict=verdict,
                note="door-code (-.3) fell" if verdict == "reject" else "all held, gain shown",
            )


CLAIMS: Sequence[Document] = (
    {"claim": "naive - replay > 0", "verdict": "holds", "estimate": 0.31, "low": 0.2, "high": 0.42, "n": 3, "p": 0.004, "why": ""},
    {
        "claim": "replay - gated > 0",
        "verdict": "refused",
        "estimate": None,
        "low": None,
        "high": None,
        "n": 1,
        "p": None,
        "why": "needs 4 seeds",
    },
)
