"""What the capability panel says of a version as a JSON document, and back."""

from __future__ import annotations

from dataclasses import asdict

from perdure.memory.contracts.panel_results import PanelResult, SampledScores, SkillScores
from perdure.memory.json_value import Document


def panel_document(result: PanelResult) -> Document:
    forgotten = [name for name, skill in result.skills.items() if skill.lost_against]
    return {
        "version": result.version,
        "before": result.before,
        "base": result.base,
        "ok": not forgotten,
        "forgotten": forgotten,
        "left_out": result.left_out,
        "skills": {name: {**asdict(skill), "lost_against": list(skill.lost_against)} for name, skill in result.skills.items()},
    }


def read_panel(document: Document) -> PanelResult:
    return PanelResult(
        version=document["version"],
        before=document["before"],
        base=document["base"],
        left_out=document["left_out"],
        skills={name: _read_skill(skill) for name, skill in document["skills"].items()},
    )


def _read_skill(document: Document) -> SkillScores:
    sampled = {measure: SampledScores(**scores) for measure, scores in document["sampled"].items()}
    return SkillScores(**{**document, "lost_against": tuple(document["lost_against"]), "sampled": sampled})
