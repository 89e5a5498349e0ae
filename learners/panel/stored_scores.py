"""What is stored of a version on the panel, and what is still to be scored. Loads no torch: a command asks before it starts a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perdure.learners.panel.panel_items import Passage, Question, Skill
from perdure.learners.panel.panel_limits import compare, items_of
from perdure.memory.contracts.panel_results import Asked, Measure, PanelResult
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.store import Store
from perdure.memory.versions import INITIAL, served_ancestor


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """The items of one skill without a score of a version, by how they are scored."""

    choice: tuple[Question, ...]
    passages: tuple[Passage, ...]
    free: tuple[Question, ...]
    """Of the marks `strict` and `lenient`, which need one answer."""
    cued: tuple[Question, ...]

    def __bool__(self) -> bool:
        return bool(self.choice or self.passages or self.free or self.cued)


def lacking(store: Store, version: str, skills: Iterable[Skill], asked: Asked, numerics: str) -> dict[str, Lacking]:
    """What is still to be scored of a version by an engine with these numerics, by skill. Skills of which all is known are left out."""
    known = panel_scores(store, version)

    def is_known(skill: Skill, item: Question | Passage, measure: Measure) -> bool:
        score = known.get((skill.name, item.id, measure))
        return score is not None and (score.content, score.numerics) == (item.content, numerics)

    def unknown(skill: Skill, measure: Measure) -> tuple[Question, ...]:
        return tuple(one for one in skill.questions if not is_known(skill, one, measure))

    found = {}
    for skill in skills:
        left = Lacking(
            choice=unknown(skill, "choice"),
            passages=tuple(one for one in skill.passages if not is_known(skill, one, "cross_entropy")),
            free=unknown(skill, "strict") if asked == "all" else (),
            cued=unknown(skill, "cued") if asked == "all" and skill.example is not None else (),
        )
        if left:
            found[skill.name] = left
    return found


def known_result(store: Store, version: str, skills: Sequence[Skill], asked: Asked) -> PanelResult | None:
    """A version beside its served ancestor and the base model, if one engine has scored all of it; else None."""
    before = served_ancestor(store, version)
    scores = {name: panel_scores(store, name) for name in dict.fromkeys((INITIAL, before, version))}
    for numerics in {score.numerics for score in scores[version].values()}:
        if not any(lacking(store, name, skills, asked, numerics) for name in scores):
            return compare(version, before, INITIAL, scores, items_of(skills))
    return None
