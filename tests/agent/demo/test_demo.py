"""The demonstration: its steps with a tiny model and real processes, and its last screen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.tiny_models import sharpen, tiny_llama

from perdure.agent.commands.demo import demo
from perdure.agent.demo.demo_screen import demo_lines, failures
from perdure.agent.demo.demo_steps import Crash, DemoFacts, DemoPlan, run_demo
from perdure.memory.contracts.panel_results import PanelResult, SkillScores
from perdure.memory.contracts.results import Evidence, GateResult, LearnResult, Leg, Selection
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.store import open_store
from perdure.memory.versions import moves

DOOR, WORD = "perdure:door-code?shots=3", "perdure:first-word?shots=2"


def leg(candidate: float, reference: float) -> Leg:
    return Leg(state="passed", n=14, candidate_score=candidate, reference_score=reference)


def learned(version: str, verdict: str, door: float, word: float, regressed: tuple[str, ...] = ()) -> LearnResult:
    evidence = Evidence(
        environments={WORD: leg(word, 0.6)},
        pooled=None,
        gain=leg(door, 0.4),
        trained={DOOR: leg(door, 0.4)},
        interval="time-uniform, 95%",
        regressed=regressed,
    )
    gate = GateResult(
        gate=1,
        candidate=version,
        serving="v0",
        profile="standard",
        verdict=verdict,  # type: ignore[arg-type]
        reason="as it is",
        rounds=14,
        evidence=evidence,
        continued_pairs=0,
        candidate_episodes=112,
        anchor_episodes=112,
    )
    return LearnResult(
        version=version,
        verdict=gate.verdict,
        reason=gate.reason,
        diagnostics=None,
        selection=Selection(step=12, reason="the best"),
        cost=None,  # type: ignore[arg-type]
        gate=gate,
        learn_s=60.0,
        gate_s=30.0,
    )


def panel(version: str, forms: float, lost: bool) -> PanelResult:
    skill = SkillScores(
        measure="choice", items=56, limit=0.05, base=0.65, before=0.65, version=forms, lost_against=("before", "base") if lost else ()
    )
    return PanelResult(version=version, before="v0", base="v0", skills={"instruction_forms": skill}, left_out=0)


FACTS = DemoFacts(
    model="the-model",
    seconds=431.4,
    target=DOOR,
    careless=learned("v1", "reject", 1.0, 0.2, regressed=(WORD,)),
    default=learned("v2", "promote", 0.9, 0.62),
    scores={DOOR: {"v0": 0.41, "v1": 1.0, "v2": 0.88}, WORD: {"v0": 0.6, "v1": 0.2, "v2": None}},
    panels={"v1": panel("v1", 0.5, lost=True), "v2": panel("v2", 0.64, lost=False)},
    crash=Crash(after_update=4, turns=1234, lost=0, repeated=0),
    rollback_s=0.4,
    start_s=0.3,
    breaches=(),
)


def test_the_screen_shows_what_was_forgotten_by_which_version() -> None:
    lines = demo_lines(FACTS, "demo/home")
    assert failures(FACTS) == []
    assert "7 min 11 s" in lines[0]
    (door,) = [line for line in lines if line.startswith("door-code")]
    assert door.split() == ["door-code", "(learned)", ".41", "████▏", "1.0", "██████████", ".88", "████████▊"]
    (word,) = [line for line in lines if line.startswith("first-word")]
    assert word.split() == ["first-word", ".60", "██████", ".20", "██", "FORGOTTEN", "-"]
    (forms,) = [line for line in lines if line.startswith("panel: instruction_forms")]
    assert forms.split() == ["panel:", "instruction_forms", ".65", "██████▌", ".50", "█████", "FORGOTTEN", ".64", "██████▍"]
    assert "  door-code: 1.00 against 0.40 over 14 pairs of the same task" in lines
    told = "kill -9: the process of v2 died after update 4 and went on from there: 0 of 1,234 turns lost, 0 of 4 updates made again"
    assert told in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 40


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (replace(FACTS, careless=FACTS.default), "v2 was not refused"),
        (replace(FACTS, default=FACTS.careless), "v1 was not promoted"),
        (replace(FACTS, crash=None), "nothing was killed"),
        (replace(FACTS, crash=Crash(after_update=4, turns=9, lost=1, repeated=0)), "turns were lost"),
        (replace(FACTS, crash=Crash(after_update=4, turns=9, lost=0, repeated=2)), "more than 1 update was made again"),
        (replace(FACTS, rollback_s=1.5), "the rollback took 1.50 s, and a command that only reads 0.30 s"),
        (replace(FACTS, breaches=("a row is gone",)), "the store has errors"),
    ],
)
def test_what_does_not_come_out_as_promised_is_said(facts: DemoFacts, said: str) -> None:
    assert said in failures(facts)


def test_a_machine_that_starts_every_command_slowly_is_no_failure() -> None:
    assert failures(replace(FACTS, rollback_s=3.0, start_s=2.5)) == []


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(InputError, match=r"exists: .*--folder"):
        run_demo(tmp_path, print)
    with pytest.raises(InputError, match="exists"):
        CliRunner().invoke(demo, ["--folder", str(tmp_path / "mine")], catch_exceptions=False)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.long
@pytest.mark.processes
def test_all_steps_run_and_a_killed_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__).parents[1]
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("switched.py", "coin.py"):
        shutil.copy(here / name, work)
    game = "py:switched:Switched"
    settings = (
        f"model = {str(sharpen(tiny_llama(tmp_path / 'model'), 1))!r}\n[stream]\nenvironments = ['{game}', 'py:coin:Coin']\n"
        f"[gate]\npanel = false\n[sandbox]\ntrusted = ['{game}', 'py:coin:Coin']\n"
    )
    options = ("prompts=8", "samples=8", "rank=8", "alpha=16", "check_every=0", "replay=0")
    said: list[str] = []
    plan = DemoPlan(
        target=game,
        careless=("grpo", "updates=1", "lr=0.000001", *options),
        default=("grpo", "updates=18", "lr=0.01", *options),
        probed_tasks=8,
        settings=settings,
        careless_settings=settings,
    )
    facts = run_demo(work / "demo", said.append, plan)
    assert failures(facts) == []
    assert facts.crash is not None
    assert 4 <= facts.crash.after_update < 18
    assert facts.crash.turns > 0
    assert facts.scores[game]["v2"] > facts.scores[game]["v0"]  # type: ignore[operator]
    assert all(facts.panels[name] is not None for name in ("v1", "v2"))
    with open_store(work / "demo" / "home") as store:
        assert [(move.kind, move.to_version) for move in moves(store)] == [
            ("initial", "v0"),
            ("promote", "v2"),
            ("rollback", "v0"),
            ("promote", "v2"),
        ]
    assert sum(line.startswith("$ perdure ") for line in said) == 10
    demo_lines(facts, "demo/home")


@pytest.mark.processes
def test_a_command_that_fails_ends_it_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"`perdure learn nonsense .*` ended with 2"):
        run_demo(tmp_path / "demo", str, DemoPlan(careless=("nonsense",)))  # type: ignore[arg-type]
