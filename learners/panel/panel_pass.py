"""Scores of a version on the capability panel. What is known of the same item is not scored again.

`choice`, `confidence` and `cross_entropy` need no sampling: an engine gives the log-probs of answers that are there already. The
probability of the right answer is the softmax over the sums of the log-probs of all choices of a question, each with the end of its turn.
`strict`, `lenient` and `cued` mark greedy answers (`answer_marks.py`). The engine's chat renders all prompts, as in play; a passage is the
answer to a fixed one.

Items that do not fit into the context of the model are kept without a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, fsum

from perdure.envs.policy import Ids, Message, Request
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.learners.panel.answer_marks import lenient_mark, strict_mark
from perdure.learners.panel.panel_items import Passage, Question, Skill, with_form
from perdure.learners.panel.stored_scores import Lacking, lacking
from perdure.memory.contracts.panel_results import Asked, Measure
from perdure.memory.evidence.item_scores import ItemMeasure, ItemScore, keep_panel_scores
from perdure.memory.records import Sampler

PASSAGE_PROMPT = "Write a short text."
SPARE_TOKENS = 16
"""A free answer may be twice as long as the longest of its choices, and longer by this."""

Scored = list[tuple[ItemMeasure, ItemScore]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelWork:
    """The means to score versions."""

    run: JobRun
    versions: LoadedVersions
    say: Callable[[str], None]


def score_version(work: PanelWork, version: str, skills: Sequence[Skill], asked: Asked) -> None:
    """Score what is lacking, and keep it skill by skill. Raises `Interrupted`, and `RuntimeFailure` if the weights have diverged."""
    run = work.run
    left = lacking(run.store, version, skills, asked, work.versions.engine.numerics)
    for skill in skills:
        if skill.name in left:
            _go_on(work, version, skill)
            sampler = work.versions.load(version)
            keep_panel_scores(run.store, run.lease, version, _score_skill(work, sampler, skill, left[skill.name]))


def scores_of(work: PanelWork, sampler: Sampler, told: str, skills: Sequence[Skill]) -> dict[ItemMeasure, ItemScore]:
    """The scores that need no sampling, of weights that the engine has loaded and that are `told` so. They are kept nowhere.

    Raises as `score_version` does.
    """
    scores: dict[ItemMeasure, ItemScore] = {}
    for skill in skills:
        _go_on(work, told, skill)
        scores |= _score_skill(work, sampler, skill, Lacking(choice=skill.questions, passages=skill.passages, free=(), cued=()))
    return scores


def _go_on(work: PanelWork, told: str, skill: Skill) -> None:
    if work.run.stop():
        raise Interrupted(f"job {work.run.lease.subject} was stopped while it scored the capability panel")
    work.run.each_round()
    work.say(f"{told} on the capability panel: {skill.name}")


def _score_skill(work: PanelWork, sampler: Sampler, skill: Skill, left: Lacking) -> Scored:
    scored: Scored = []

    def keep(item: Question | Passage, measure: Measure, score: float | None) -> None:
        scored.append(((skill.name, item.id, measure), ItemScore(score, item.content, work.versions.engine.numerics)))

    for question, chances in zip(left.choice, _chances(work, sampler, left.choice), strict=True):
        keep(question, "choice", None if chances is None else chances[0])
        keep(question, "confidence", None if chances is None else max(chances))
    for passage, nats in zip(left.passages, _cross_entropies(work, sampler, left.passages), strict=True):
        keep(passage, "cross_entropy", nats)
    for question, answer in zip(left.free, _answers(work, sampler, left.free, ()), strict=True):
        keep(question, "strict", None if answer is None else float(strict_mark(answer, question)))
        if answer is not None and (lenient := lenient_mark(answer, question)) is not None:
            keep(question, "lenient", float(lenient))
    for question, answer in zip(left.cued, _answers(work, sampler, left.cued, _example(skill)), strict=True):
        keep(question, "cued", None if answer is None else float(strict_mark(answer, question)))
    return scored


def _chances(work: PanelWork, sampler: Sampler, questions: Sequence[Question]) -> list[list[float] | None]:
    """The probabilities of the choices of each question, the right one's first; None if it does not fit."""
    chat = work.versions.engine.chat
    turns = [
        [(chat.prompt(_asked(question)), chat.answer(answer)) for answer in (question.right, *question.wrong)] for question in questions
    ]
    sums = [None if found is None else [fsum(logps) for logps in found] for found in _logprobs(work, sampler, turns)]
    return [None if found is None else _softmax(found) for found in sums]


def _softmax(sums: Sequence[float]) -> list[float]:
    largest = max(sums)
    weights = [exp(one - largest) for one in sums]
    return [weight / fsum(weights) for weight in weights]


def _cross_entropies(work: PanelWork, sampler: Sampler, passages: Sequence[Passage]) -> list[float | None]:
    """Nats a token of each passage, without the end of its turn; None if it does not fit."""
    chat = work.versions.engine.chat
    prompt_ids = chat.prompt([Message(role="user", text=PASSAGE_PROMPT)])
    turns = [[(prompt_ids, chat.answer(passage.text)[:-1])] for passage in passages]
    return [None if found is None else -fsum(found[0]) / len(found[0]) for found in _logprobs(work, sampler, turns)]


def _logprobs(work: PanelWork, sampler: Sampler, items: Sequence[Sequence[tuple[Ids, Ids]]]) -> list[list[tuple[float, ...]] | None]:
    """Log-probs of the turns of each item; None for an item of which one does not fit into the context."""
    engine = work.versions.engine
    fits = [all(len(prompt) + len(action) < engine.context_limit for prompt, action in turns) for turns in items]
    asked = [turn for turns, fit in zip(items, fits, strict=True) if fit for turn in turns]
    given = iter(engine.logprobs(sampler, asked))
    return [[next(given) for _ in turns] if fit else None for turns, fit in zip(items, fits, strict=True)]


def _answers(work: PanelWork, sampler: Sampler, questions: Sequence[Question], before: Sequence[Message]) -> list[str | None]:
    """The greedy answer to each question, after what is said before; None if it does not fit."""
    engine = work.versions.engine
    chat = engine.chat
    requests: list[Request | None] = []
    for question in questions:
        prompt_ids = chat.prompt([*before, *_asked(question)])
        longest = max(len(chat.answer(answer)) for answer in (question.right, *question.wrong))
        room = -(-(2 * longest + SPARE_TOKENS) // SPARE_TOKENS) * SPARE_TOKENS  # few lengths, since an engine may answer each apart
        fits = len(prompt_ids) + room <= engine.context_limit
        requests.append(Request(prompt_ids=prompt_ids, max_tokens=room, temperature=0.0) if fits else None)
    samples = iter(engine.policy(sampler).generate([request for request in requests if request is not None]))
    return [None if request is None else chat.text(next(samples).action_ids) for request in requests]


def _asked(question: Question) -> list[Message]:
    return [Message(role="user", text=question.prompt)]


def _example(skill: Skill) -> list[Message]:
    if skill.example is None:
        return []
    return [
        Message(role="user", text=with_form(skill.example.prompt, skill.form)),
        Message(role="assistant", text=skill.example.right),
    ]
