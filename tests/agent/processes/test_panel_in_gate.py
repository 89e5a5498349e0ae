"""The capability panel in the gate of a job, in a real home with a policy that follows a script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.processes.test_judging import CONFIG, NAMES, SKILLS, A, SkilledEngine, Skills, gated
from tests.learners.panel.panel_files import written

from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.next_step import with_care
from perdure.agent.planning.panel_care import GENERAL, panel_care
from perdure.agent.planning.step_kinds import LearnNext
from perdure.agent.planning.track_record import GAINED, track_records
from perdure.agent.show.life_report import life_report
from perdure.agent.stream.registering import register_environments
from perdure.agent.supervision.learning_jobs import learn_order
from perdure.learners.gate.lifetime import e_lond_alpha
from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.panel_limits import BOTH
from perdure.memory import versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.gates import candidate_gates
from perdure.memory.store import Store, create_store

ITEMS = [{"id": f"agreeing-{n}", "prompt": f"Do you agree with {n}?", "right": "yes", "wrong": ["no"]} for n in range(2)]
FIRST, SECOND = (str(item["prompt"]) for item in ITEMS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A home in which v0 serves and v1 and v2 are candidates, with a skill of its own in the panel: to say 'yes'."""
    with create_store(tmp_path / "home") as store:
        versions.add_initial(store, "scripted", "0" * 64)
        register_environments(store, [CONFIG.environment(name) for name in NAMES])
        for name, parent in (("v1", "v0"), ("v2", "v1")):
            versions.add_candidate(store, None, name, parent, f"hash of {name}", None, [A], None)
        written(store.home / "panel", [{"skill": "agreeing", "about": "It agrees."}, *ITEMS], "agreeing")
        yield store


def engine(skills: Skills) -> SkilledEngine:
    """With room for every item of the panel."""
    return SkilledEngine(skills=skills, context_limit=4096)


def agreeing(**shares: float) -> Skills:
    """The skills of the versions, with how likely each says 'yes' to the second item of the panel; to the first all do so with .5."""
    return {name: {**SKILLS[name], FIRST: 0.5, SECOND: share} for name, share in shares.items()}


def test_a_candidate_that_lost_a_skill_outside_of_the_stream_is_rejected_before_anything_is_played(store: Store) -> None:
    result = gated(store, "v1", engine=engine(agreeing(v0=0.9, v1=0.7)))
    assert (result.verdict, result.rounds, result.candidate_episodes, result.anchor_episodes) == ("reject", 0, 0, 0)
    assert result.reason == "on the capability panel agreeing fell from .70 to .60 against v0, more than .05"
    assert result.panel is not None
    skill = result.panel.skills["agreeing"]
    assert (skill.items, skill.lost_against) == (2, ("before", "base"))
    assert (skill.base, skill.before, skill.version) == (pytest.approx(0.7), pytest.approx(0.7), pytest.approx(0.6))
    assert set(result.panel.skills) == {*(one.name for one in load_panel(store.home)), BOTH}
    assert store.rows("SELECT count(*) AS n FROM episode")[0]["n"] == 0
    assert (versions.get_version(store, "v1").state, versions.serving(store).name) == ("rejected", "v0")
    scored = [measure for _, _, measure in panel_scores(store, "v1") if measure != "confidence"]
    assert len(scored) == sum(len(one.items) for one in load_panel(store.home)) - result.panel.left_out


def test_what_is_known_is_not_scored_again(store: Store) -> None:
    first = engine(agreeing(v0=0.9, v1=0.9))
    assert gated(store, "v1", engine=first).verdict == "promote"
    assert {version for version, _ in first.scored} == {"v0", "v1"}
    second = engine(agreeing(v0=0.9, v1=0.9, v2=0.5))
    result = gated(store, "v2", engine=second)
    assert {version for version, _ in second.scored} == {"v2"}
    assert (result.verdict, result.serving) == ("reject", "v1")
    third = engine(agreeing(v0=0.9, v1=0.9, v2=0.5))
    again = gated(store, "v2", engine=third, leads_to="nothing")
    assert (again.reason, again.rounds, third.scored) == (result.reason, 0, [])


def test_a_limit_that_is_spent_against_the_base_refuses_only_what_is_worse_and_raises_kl_old(store: Store) -> None:
    assert gated(store, "v1", skills=agreeing(v0=0.9, v1=0.86)).verdict == "promote", "it lost .02"
    life = read_life(store)
    assert life is not None
    assert (life.panel is not None, panel_care(life).factor) == (True, 1.0)
    step = LearnNext(targets=(A,), why="it promises most")
    assert with_care(step, life) == step
    assert {"kl_old", "general"}.isdisjoint(learn_order(CONFIG, with_care(step, life)).options)
    scores = panel_scores(store, "v1")
    with store.write() as conn:  # as after several promotions that lost a little each
        conn.execute("UPDATE panel_score SET score = 0.7 WHERE version = 'v1' AND item = 'agreeing-1'")
    assert panel_scores(store, "v1") != scores
    life = read_life(store)
    assert life is not None
    raised = with_care(step, life)
    assert raised.why == (
        "it promises most; general prompts are asked for and kl_old is raised 2 times, since v1 is below the base model in agreeing "
        "(0.60, base 0.70)"
    )
    assert learn_order(CONFIG, raised).options.items() >= {"kl_old": 0.4, **GENERAL}.items()
    mine = CONFIG.model_copy(update={"learn": CONFIG.learn.model_copy(update={"options": {"kl_old": 1.0, "general": 0.1}})})
    assert learn_order(mine, raised).options.items() >= {"kl_old": 2.0, "general": 0.1}.items()
    bare = CONFIG.model_copy(update={"learn": CONFIG.learn.model_copy(update={"options": {"replay": 0.0}})})
    assert "general" not in learn_order(bare, raised).options, "general prompts are a share of replay"
    worse = gated(store, "v2", skills=agreeing(v0=0.9, v1=0.7, v2=0.66), leads_to="nothing")
    assert (worse.verdict, worse.reason) == (
        "reject",
        "on the capability panel agreeing fell from .70 to .58 against the base model, more than .05, and is worse than with v1 (.60)",
    )


def test_general_prompts_are_learned_beside_once_half_of_a_limit_is_spent(store: Store) -> None:
    assert gated(store, "v1", skills=agreeing(v0=0.9, v1=0.82)).verdict == "promote", "it lost .04"
    life = read_life(store)
    assert life is not None
    step = with_care(LearnNext(targets=(A,), why="it promises most"), life)
    assert step.why == ("it promises most; general prompts are asked for, since v1 is below the base model in agreeing (0.66, base 0.70)")
    options = learn_order(CONFIG, step).options
    assert options.items() >= GENERAL.items()
    assert "kl_old" not in options


def test_a_candidate_below_the_base_that_is_no_worse_than_the_serving_version_is_played(store: Store) -> None:
    gated(store, "v1", skills=agreeing(v0=0.9, v1=0.9))
    with store.write() as conn:
        conn.execute("UPDATE panel_score SET score = 0.7 WHERE version = 'v1' AND item = 'agreeing-1'")
    result = gated(store, "v2", skills=agreeing(v0=0.9, v1=0.7, v2=0.71), leads_to="nothing")
    assert result.rounds > 0
    assert result.panel is not None
    assert result.panel.skills["agreeing"].lost_against == ("base",)


def test_a_refusal_by_the_panel_raises_kl_old_of_the_next_job_until_a_promotion(store: Store) -> None:
    assert gated(store, "v1", skills=agreeing(v0=0.9, v1=0.5)).verdict == "reject"
    life = read_life(store)
    assert life is not None
    care = panel_care(life)
    assert (care.factor, care.why) == (2.0, "the capability panel refused v1")
    assert panel_care(replace(life, jobs=life.jobs * 9)).factor == 2.0, "a candidate counts once"
    others = [replace(job, result=replace(result, candidate=f"v{n}")) for job in life.jobs for n in range(9) if (result := job.gate)]
    assert panel_care(replace(life, jobs=tuple(others))).factor == 8.0, "not without end"
    assert gated(store, "v2", skills=agreeing(v0=0.9, v2=0.9)).verdict == "promote"
    life = read_life(store)
    assert life is not None
    assert panel_care(life).why is None


def test_the_panel_can_be_left_out_and_no_rollback_asks_it(store: Store) -> None:
    without = CONFIG.model_copy(update={"gate": CONFIG.gate.model_copy(update={"panel": False})})
    unasked = engine(agreeing(v0=0.9, v1=0.1))
    result = gated(store, "v1", engine=unasked, config=without)
    assert (result.verdict, result.panel, unasked.scored) == ("promote", None, [])
    unasked = engine({**agreeing(v0=0.9), "v1": {"else": 0.0, FIRST: 0.5, SECOND: 0.1}})
    confirming = gated(store, "v0", engine=unasked, leads_to="rollback", config=CONFIG)
    assert (confirming.panel, unasked.scored, confirming.rounds > 0) == (None, [], True)
    assert [gate.candidate for gate in candidate_gates(store)] == ["v1"]


def test_once_the_panel_is_left_out_what_it_said_raises_nothing(store: Store) -> None:
    assert gated(store, "v1", engine=engine(agreeing(v0=0.9, v1=0.5))).verdict == "reject"
    life = read_life(store)
    assert life is not None
    assert panel_care(life).factor == 2.0
    without = CONFIG.model_copy(update={"gate": CONFIG.gate.model_copy(update={"panel": False})})
    gated(store, "v2", engine=engine(agreeing(v0=0.9, v2=0.5)), config=without, leads_to="nothing")
    life = read_life(store)
    assert life is not None
    assert (life.panel, panel_care(life).factor) == (None, 1.0)


def test_a_refusal_by_the_panel_is_no_statistical_test(store: Store) -> None:
    over_time = CONFIG.model_copy(update={"gate": CONFIG.gate.model_copy(update={"over_time": "e-lond"})})
    assert gated(store, "v1", engine=engine(agreeing(v0=0.9, v1=0.5)), config=over_time).verdict == "reject"
    report = life_report(store)
    assert report is not None
    assert report.statement.candidates == 0
    result = gated(store, "v2", engine=engine(agreeing(v0=0.9, v2=0.9)), config=over_time)
    assert result.alpha == e_lond_alpha(CONFIG.gate.alpha, 1, 0), "as of the first candidate"


def test_a_target_that_only_the_panel_refused_is_not_given_up_as_soon(store: Store) -> None:
    assert gated(store, "v1", engine=engine(agreeing(v0=0.9, v1=0.5))).verdict == "reject"
    life = read_life(store)
    assert life is not None
    (job,) = life.jobs
    learned = replace(job, order=LearnOrder(learner="grpo"), targets=(A,))
    assert track_records(replace(life, jobs=(learned,)))[A].refusals == GAINED
