"""Scores of real models on a small panel, against one plain forward pass over each sequence alone."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from pathlib import Path

import pytest
from tests.fakes import ScriptedEngine
from tests.learners.conftest import engine_of, merged_logprobs
from tests.learners.panel.panel_files import EXAMPLE, HEADER, NOTES, SKY, SNOW, TEXTS, skill

from perdure.envs.policy import Message, Request
from perdure.envs.rollout import never
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.learners.panel.answer_marks import strict_mark
from perdure.learners.panel.panel_items import Skill
from perdure.learners.panel.panel_pass import PASSAGE_PROMPT, PanelWork, score_version
from perdure.learners.panel.stored_scores import lacking
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import versions
from perdure.memory.contracts.orders import PanelOrder
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.jobs import add_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.records import VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.journal import StoreJournal

BASE = VersionRef("v0")


@pytest.fixture
def store(tmp_path: Path, llama: ModelFiles) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        versions.add_initial(store, llama.name, llama.hash)
        yield store


@pytest.fixture
def panel(tmp_path: Path) -> tuple[Skill, ...]:
    return skill(tmp_path, {**HEADER, "example": EXAMPLE}), skill(tmp_path, TEXTS, NOTES)


def work_on(store: Store, engine: Engine, said: list[str] | None = None) -> PanelWork:
    number = add_job(store, f"panel {len(store.rows('SELECT id FROM job'))}", [], PanelOrder())
    leased = lease_job(store, "test", 600.0, BootClock(), number)
    assert leased is not None
    run = JobRun(store=store, lease=leased[1], journal=StoreJournal(store, BootClock()), stop=never)
    lines = said if said is not None else []
    return PanelWork(run=run, versions=LoadedVersions(store, engine), say=lines.append)


def test_choices_and_texts_are_scored_exactly(store: Store, llama: ModelFiles, panel: tuple[Skill, ...]) -> None:
    engine = engine_of(llama, budget_tokens=64)
    score_version(work_on(store, engine), "v0", panel, "choice")
    found = panel_scores(store, "v0")
    assert set(found) == {
        *(("colours", f"colours-{n}", measure) for n in (1, 2) for measure in ("choice", "confidence")),
        ("notes", "notes-1", "cross_entropy"),
        ("notes", "notes-2", "cross_entropy"),
    }
    chat = engine.chat
    for asked in panel[0].questions:
        prompt = chat.prompt([Message(role="user", text=asked.prompt)])
        sums = [float(merged_logprobs(llama, {}, [(prompt, chat.answer(answer))]).sum()) for answer in (asked.right, *asked.wrong)]
        wanted = exp(sums[0]) / sum(map(exp, sums))
        assert found["colours", asked.id, "choice"].score == pytest.approx(wanted, rel=1e-3)
        assert found["colours", asked.id, "choice"].content == asked.content
        assert found["colours", asked.id, "confidence"].score == pytest.approx(max(map(exp, sums)) / sum(map(exp, sums)), rel=1e-3)
    prompt = chat.prompt([Message(role="user", text=PASSAGE_PROMPT)])
    for passage in panel[1].passages:
        logps = merged_logprobs(llama, {}, [(prompt, chat.answer(passage.text)[:-1])])
        assert found["notes", passage.id, "cross_entropy"].score == pytest.approx(-float(logps.mean()), rel=1e-3)


def test_what_is_known_is_not_scored_again_and_an_edited_item_is(
    store: Store, llama: ModelFiles, panel: tuple[Skill, ...], tmp_path: Path
) -> None:
    said: list[str] = []
    engine = engine_of(llama)
    work = work_on(store, engine, said)
    score_version(work, "v0", panel, "choice")
    before = panel_scores(store, "v0")
    assert said == ["v0 on the capability panel: colours", "v0 on the capability panel: notes"]
    score_version(work, "v0", panel, "choice")
    assert len(said) == 2
    edited = (skill(tmp_path / "new", {**HEADER, "example": EXAMPLE}, [SKY, {**SNOW, "wrong": ["black", "brown"]}]), panel[1])
    (left,) = lacking(store, "v0", edited, "choice", engine.numerics).values()
    assert [one.id for one in left.choice] == ["colours-2"]
    score_version(work, "v0", edited, "choice")
    after = panel_scores(store, "v0")
    assert {key for key in after if after[key] != before[key]} == {("colours", "colours-2", one) for one in ("choice", "confidence")}
    assert lacking(store, "v0", edited, "choice", engine.numerics) == {}


def test_greedy_answers_are_marked_with_and_without_an_example(store: Store, llama: ModelFiles, panel: tuple[Skill, ...]) -> None:
    engine = engine_of(llama)
    score_version(work_on(store, engine), "v0", panel, "all")
    found = panel_scores(store, "v0")
    assert {measure for _, _, measure in found} == {"choice", "confidence", "cross_entropy", "strict", "lenient", "cued"}
    chat, example = engine.chat, panel[0].example
    assert example is not None
    shown = [Message(role="user", text=f"{example.prompt} {HEADER['form']}"), Message(role="assistant", text=example.right)]
    for asked in panel[0].questions:
        prompt = chat.prompt([*shown, Message(role="user", text=asked.prompt)])
        (sample,) = engine.generate(BASE, [Request(prompt_ids=prompt, max_tokens=64, temperature=0.0)])
        assert found["colours", asked.id, "cued"].score == float(strict_mark(chat.text(sample.action_ids), asked))
    assert lacking(store, "v0", panel, "all", engine.numerics) == {}


def test_an_answer_is_right_as_a_whole_or_somewhere(store: Store, tmp_path: Path) -> None:
    """The scripted policy repeats what it was asked, after the name of its weights."""
    whole = {**SKY, "right": f"Base {SKY['prompt']} {HEADER['form']}", "accept": []}
    part = {**SNOW, "right": "base"}
    one = skill(tmp_path, HEADER, [whole, part])
    score_version(work_on(store, ScriptedEngine(context_limit=1024)), "v0", [one], "all")
    found = {
        (item, measure): score.score
        for (_, item, measure), score in panel_scores(store, "v0").items()
        if measure in ("strict", "lenient", "cued")
    }
    assert found == {
        ("colours-1", "strict"): 1.0,
        ("colours-1", "lenient"): 1.0,
        ("colours-2", "strict"): 0.0,
        ("colours-2", "lenient"): 1.0,
    }, "without an example there is no mark 'cued'"


def test_an_item_that_does_not_fit_into_the_context_gets_no_score(store: Store, llama: ModelFiles, tmp_path: Path) -> None:
    long = {**SNOW, "prompt": "What colour is snow? " + "Say it. " * 100}
    one = skill(tmp_path, HEADER, [SKY, long])
    engine = engine_of(llama)
    score_version(work_on(store, engine), "v0", [one], "all")
    assert {item for (_, item, _), kept in panel_scores(store, "v0").items() if kept.score is not None} == {"colours-1"}
    assert lacking(store, "v0", [one], "all", engine.numerics) == {}, "it is not tried again"
    assert list(lacking(store, "v0", [one], "all", "another engine")) == ["colours"]


def test_a_job_that_is_stopped_keeps_the_skills_that_are_scored(store: Store, llama: ModelFiles, panel: tuple[Skill, ...]) -> None:
    said: list[str] = []
    work = work_on(store, engine_of(llama), said)
    run = JobRun(store=store, lease=work.run.lease, journal=work.run.journal, stop=lambda: len(said) == 1)
    with pytest.raises(Interrupted, match="was stopped while it scored the capability panel"):
        score_version(PanelWork(run=run, versions=work.versions, say=said.append), "v0", panel, "choice")
    assert {name for name, _, _ in panel_scores(store, "v0")} == {"colours"}
