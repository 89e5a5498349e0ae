"""The gate of a job in a real home: what it plays, what its verdict does, what is kept for the next one. The policy follows a script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from random import Random

import pytest
from tests.agent.skill import Stumbles
from tests.fakes import ScriptedEngine, ScriptedPolicy

from perdure.agent.config import Config
from perdure.agent.processes.child import Stop
from perdure.agent.processes.job_work import Work
from perdure.agent.processes.judging import apply_verdict, judge
from perdure.agent.processes.pulse import Pulse
from perdure.agent.stream.registering import register_environments
from perdure.envs.policy import Ids, Policy
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.player import Sampling
from perdure.memory import versions
from perdure.memory.contracts.orders import Consequence, GateOrder
from perdure.memory.contracts.results import GateResult
from perdure.memory.environments import anchor_of, restore, retire
from perdure.memory.errors import InputError
from perdure.memory.evidence.dev_scores import known_dev_scores
from perdure.memory.gates import candidate_gates, pairs_of
from perdure.memory.jobs import add_job, finish_job, get_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import events
from perdure.memory.records import Sampler
from perdure.memory.store import Store, create_store
from perdure.memory.upkeep.backup import backup

SAYS = "py:tests.agent.skill:Says"
STUMBLES = "py:tests.agent.skill:Stumbles"
NAMES = [f"{SAYS}?name={letter}" for letter in "abcde"]
A, B, C = NAMES[:3]
Skills = Mapping[str, Mapping[str, float]]
"""Of versions, by what is asked; 'else' stands for everything else."""


@dataclass
class SkilledEngine(ScriptedEngine):
    """Each version says 'yes' as often as its skill in what it is asked."""

    skills: Skills = field(default_factory=dict)
    chance: Random = field(default_factory=lambda: Random(0))
    scored: list[tuple[str, str]] = field(default_factory=list)
    """Version and prompt of each given answer that it scored."""

    def policy(self, sampler: Sampler) -> Policy:  # type: ignore[override]
        self.require(sampler)
        return ScriptedPolicy(lambda said: "yes" if self.chance.random() < self.skill(sampler, said) else "no", sampler)

    def liking(self, sampler: Sampler, prompt: Ids, action: Ids) -> float:
        said, answer = self.chat.messages(prompt)[-1].text, self.chat.text(action)
        self.scored.append((str(sampler), said))
        yes = min(max(self.skill(sampler, said), 1e-6), 1 - 1e-6)
        return log({"yes": yes, "no": 1 - yes}.get(answer, 0.5))

    def skill(self, sampler: Sampler, said: str) -> float:
        """The probability of 'yes'."""
        skills = self.skills[str(sampler)]
        return skills.get(said, skills["else"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A home in which v0 serves; v1 and v2 are candidates, one from the other. Versions with a folder have nothing in it."""
    with create_store(tmp_path / "home") as store:
        versions.add_initial(store, "scripted", "0" * 64)
        register_environments(store, [CONFIG.environment(name) for name in NAMES])
        for name, parent in (("v1", "v0"), ("v2", "v1"), ("v3", "v2")):
            versions.add_candidate(store, None, name, parent, f"hash of {name}", None, [A], None)
        yield store


CONFIG = Config.model_validate(
    {"stream": {"environments": NAMES}, "sandbox": {"trusted": [SAYS, STUMBLES]}, "gate": {"profile": "standard"}}
)
SKILLS: Skills = {
    "v0": {"else": 0.5, "a": 0.2},
    "v1": {"else": 0.5, "a": 0.8, "b": 0.95},
    "v2": {"else": 0.5, "a": 1.0, "b": 0.5},
    "v3": {"else": 0.5, "a": 1.0, "b": 0.95},
}


def work_on(store: Store, engine: SkilledEngine, candidate: str, targets: list[str], leads_to: Consequence, config: Config) -> Work:
    order = GateOrder(candidate=candidate, leads_to=leads_to)
    number = add_job(store, f"{candidate} {len(candidate_gates(store))} {leads_to}", targets, order)
    leased = lease_job(store, "test", 600.0, BootClock(), number)
    assert leased is not None
    loaded = LoadedVersions(store, engine)
    return Work(store=store, config=config, versions=loaded, job=leased[0], lease=leased[1], pulse=Pulse(store, "job"), stop=Stop())


def gated(
    store: Store,
    candidate: str,
    *,
    skills: Skills = SKILLS,
    targets: list[str] | None = None,
    leads_to: Consequence = "promotion",
    config: Config = CONFIG,
    engine: SkilledEngine | None = None,
) -> GateResult:
    """A whole job that gates a candidate."""
    engine = engine or SkilledEngine(skills=skills)
    work = work_on(store, engine, candidate, [A] if targets is None else targets, leads_to, config)
    assert isinstance(work.job.order, GateOrder)
    result = judge(work, versions.get_version(store, candidate), work.job.order)
    with store.write():
        apply_verdict(work, result)
        finish_job(store, work.lease, result, candidate)
    assert get_job(store, work.job.id).result == result
    return result


def test_a_skill_won_by_the_way_is_protected_and_one_who_throws_it_away_is_refused(store: Store) -> None:
    first = gated(store, "v1")
    assert (first.verdict, set(first.new_anchors)) == ("promote", {A, B})
    assert versions.serving(store).name == "v1"
    assert {name: anchor_of(store, name) for name in NAMES} == {**dict.fromkeys(NAMES, "v0"), A: "v1", B: "v1"}
    careless = gated(store, "v2")
    assert careless.verdict != "promote", "against v0 it held everywhere"
    assert versions.serving(store).name == "v1"
    assert careless.evidence.environments[B].reference == "v1"
    careful = gated(store, "v3")
    assert (careful.verdict, versions.serving(store).name) == ("promote", "v3")


def test_a_verdict_without_a_consequence_changes_nothing(store: Store) -> None:
    result = gated(store, "v1", leads_to="nothing")
    assert (result.verdict, result.new_anchors, versions.serving(store).name) == ("promote", (), "v0")
    assert gated(store, "v2", skills={**SKILLS, "v2": {"else": 0.0}}, leads_to="nothing").verdict == "reject"
    assert versions.get_version(store, "v2").state == "candidate"
    again = gated(store, "v1")
    assert (again.verdict, versions.serving(store).name) == ("promote", "v1"), "its pairs are taken up, and now it is to serve"
    assert again.continued_pairs > 0
    assert A in again.new_anchors
    assert gated(store, "v2", skills={**SKILLS, "v2": {"else": 0.0}}).verdict == "reject"
    assert versions.get_version(store, "v2").state == "rejected"


def test_answers_are_sampled_as_play_does_unless_the_gate_says_otherwise(store: Store) -> None:
    result = gated(store, "v1", leads_to="nothing")
    assert (result.temperature, result.samples) == (1.0, 4)
    rows = store.rows("SELECT count(*) AS n, count(DISTINCT member) AS members FROM episode WHERE purpose = 'gate' GROUP BY \"group\"")
    assert {(row["n"], row["members"]) for row in rows} == {(4, 4)}
    assert {row["temperature"] for row in store.rows("SELECT temperature FROM episode")} == {1.0}
    assert known_dev_scores(store, 1.0).keys() == {(name, "v0") for name in NAMES}
    greedy = CONFIG.model_copy(update={"gate": CONFIG.gate.model_copy(update={"temperature": 0.0})})
    result = gated(store, "v2", config=greedy, leads_to="nothing")
    assert (result.temperature, result.samples) == (0.0, 1)
    assert [pair.candidate_score for pair in pairs_of(store, result.gate) if pair.candidate_score not in (None, 0.0, 1.0)] == []


@pytest.mark.long
def test_alpha_shrinks_over_time_if_it_is_to_and_stays_for_a_candidate(store: Store) -> None:
    careful = CONFIG.model_copy(update={"gate": CONFIG.gate.model_copy(update={"over_time": "e-lond"})})
    same = {**SKILLS, "v1": SKILLS["v0"], "v2": SKILLS["v0"]}
    alphas = [gated(store, name, skills=same, config=careful, leads_to="nothing").alpha for name in ("v1", "v2", "v1", "v3")]
    assert alphas[0] == pytest.approx(0.05 / 2.2857657)
    assert alphas[1] == pytest.approx(alphas[0] / 2**1.6)
    assert alphas[2] == alphas[0]
    assert alphas[3] == pytest.approx(alphas[0] / 3**1.6)


def remember(store: Store, version: str, environment: str) -> None:
    with store.write() as conn:
        conn.execute("UPDATE version SET path = ? WHERE name = ?", (f"versions/{version}", version))
        conn.execute("UPDATE environment SET anchor = ? WHERE name = ?", (version, environment))


def test_if_the_files_of_an_anchor_are_gone_the_serving_version_stands_in_and_the_anchor_stays(store: Store) -> None:
    remember(store, "v3", B)
    result = gated(store, "v1")
    assert result.verdict == "promote"
    assert result.evidence.environments[B].reference == "v0"
    assert (result.evidence.environments[B].anchor_wealth or 0.0) >= 200
    event = next(event for event in events(store) if event.kind == "anchor missing")
    assert event.subject == B
    assert event.message == (
        f"its anchor v3 cannot be played, so that this gate compares with v0, which serves: {store.home / 'versions' / 'v3'} is gone; "
        "put it back from a backup, and the next gate compares with v3 again"
    )
    assert anchor_of(store, B) == "v3", "v3 itself was not beaten"
    assert (anchor_of(store, A), result.new_anchors) == ("v1", (A,))


def test_an_anchor_with_damaged_files_is_one_whose_files_are_gone(store: Store) -> None:
    remember(store, "v3", B)
    (store.home / "versions" / "v3").mkdir()
    assert gated(store, "v1").evidence.environments[B].reference == "v0"
    event = next(event for event in events(store) if event.kind == "anchor missing")
    assert event.message.endswith("restore it from a backup, or roll back")


def test_anchors_in_a_restored_home(store: Store, tmp_path: Path) -> None:
    gated(store, "v1")
    (store.home / "versions" / "v1").mkdir()
    remember(store, "v1", B)
    backup(store, tmp_path / "copy.db")
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(tmp_path / "copy.db", restored / "perdure.db")
    with create_store(restored) as again:
        assert {name: anchor_of(again, name) for name in NAMES} == {name: anchor_of(store, name) for name in NAMES}
        again.conn.execute("UPDATE version SET state = 'retired' WHERE state = 'serving'")
        again.conn.execute("UPDATE version SET state = 'serving' WHERE name = 'v3'")
        result = gated(again, "v2", leads_to="nothing")
        assert result.evidence.environments[B].reference == "v3"
        assert {event.subject for event in events(again) if event.kind == "anchor missing"} == {A, B}
        before, now = known_dev_scores(store, 1.0), known_dev_scores(again, 1.0)
        assert before
        assert all(now[reference].seeds >= known.seeds for reference, known in before.items()), "what was known is kept"


@pytest.mark.parametrize(("times", "voids"), [(1, False), (9, True)])
def test_an_episode_that_failed_is_played_once_more_before_it_counts(store: Store, times: int, voids: bool) -> None:
    Stumbles.played.clear()
    work = work_on(store, SkilledEngine(skills=SKILLS), "v1", [A], "nothing", CONFIG)
    player = work.player("gate", Sampling(temperature=1.0, samples=2))
    (stumbles,) = register_environments(store, [CONFIG.environment(f"{STUMBLES}?name=a&times={times}")])
    draws = [(stumbles, 2**31 + n) for n in range(4)] + [(C, 2**31)]
    answers = player.scores("v1", draws)
    assert [len(of_draw) for of_draw in answers] == [2] * 5
    assert [None in of_draw for of_draw in answers] == [voids] * 4 + [False]
    failed = store.rows("SELECT count(*) FROM episode WHERE state = 'env_error'")[0][0]
    assert failed == (16 if voids else 4)


def test_found_a_retired_environment_is_in_no_gate_and_comes_back_with_its_anchor(store: Store) -> None:
    first = gated(store, "v1")
    assert (first.verdict, anchor_of(store, B)) == ("promote", "v1")
    retire(store, B)
    result = gated(store, "v2", leads_to="nothing")
    assert B not in result.evidence.environments
    assert result.verdict == "promote", "it threw only that away"
    with pytest.raises(InputError, match="is retired: `perdure env restore` brings it back"):
        gated(store, "v2", targets=[B], leads_to="nothing")
    restore(store, B)
    again = gated(store, "v2")
    assert again.verdict != "promote"
    assert again.evidence.environments[B].reference == "v1"
