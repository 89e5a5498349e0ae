"""One version on one skill of the capability panel, item by item: what it scores, and what the version before and the base model score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.learners.panel.panel_items import Passage, Question, load_panel
from perdure.learners.panel.panel_limits import limit_of
from perdure.memory.contracts.panel_results import Measure
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.store import Store
from perdure.memory.versions import INITIAL, served_ancestor

MOST_ITEMS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    """One item."""

    id: str
    text: str | None
    """None if the panel has it no more, or has another text under this name."""
    right: str | None
    """The right answer; None of a passage."""
    score: float
    before: float | None
    base: float | None
    """None, like `before`, if that version was not scored on the same text by the same engine."""
    change: float | None
    """Against the base model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillEvidence:
    """The score of a version on a skill, and where it comes from."""

    version: str
    skill: str
    about: str | None
    measure: Measure
    score: float
    change: float | None
    """Of the mean over the items that the base model was scored on too."""
    limit: float
    before: str
    base: str
    items: Sequence[ScoredItem]
    """Those that lost most first, `MOST_ITEMS` of them."""
    items_in_all: int


def skill_evidence(store: Store, version: str, skill: str) -> SkillEvidence:
    """Raises `UnknownError` for a version that the home does not have, and for a skill that it was not scored on."""
    before = served_ancestor(store, version)
    now, then, base = (panel_scores(store, name) for name in (version, before, INITIAL))
    own = {key: one for key, one in now.items() if key[0] == skill and key[2] in ("choice", "cross_entropy") and one.score is not None}
    if not own:
        raise UnknownError(f"{version} was not scored on {skill[:100]!r}: `perdure panel {version}` scores it on every skill of the panel")
    try:
        panel = load_panel(store.home)
    except InputError:  # a file of the operator's own that is damaged: `perdure panel` names it
        panel = load_panel()
    texts = {(one.id, one.content): one for part in panel if part.name == skill for one in part.items}
    [measure] = {key[2] for key in own}

    items = []
    for key, one in own.items():
        assert one.score is not None
        others = [
            other.score if other is not None and (other.content, other.numerics) == (one.content, one.numerics) else None
            for other in (then.get(key), base.get(key))
        ]
        items.append(
            ScoredItem(
                id=key[1],
                **_words(texts.get((key[1], one.content))),
                score=one.score,
                before=others[0],
                base=others[1],
                change=None if others[1] is None else one.score - others[1],
            )
        )
    worse = -1.0 if measure == "cross_entropy" else 1.0
    items.sort(key=lambda item: (item.change is None, worse * (item.change or 0.0), item.id))
    changes = [item.change for item in items if item.change is not None]
    return SkillEvidence(
        version=version,
        skill=skill,
        about=next((part.about for part in panel if part.name == skill), None),
        measure=measure,
        score=fmean(item.score for item in items),
        change=fmean(changes) if changes else None,
        limit=limit_of(skill, measure),
        before=before,
        base=INITIAL,
        items=items[:MOST_ITEMS],
        items_in_all=len(items),
    )


def _words(item: Question | Passage | None) -> dict[str, str | None]:
    if isinstance(item, Question):
        return {"text": item.prompt, "right": item.right}
    return {"text": None if item is None else item.text, "right": None}
