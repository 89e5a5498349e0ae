"""Records as JSON and back: reader and writer agree, and the keys are those that scripts rely on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.results import gate_result, learn_result, update

from perdure.memory.contracts.json_form import (
    order_document,
    read_order,
    read_result,
    read_update,
    result_document,
    update_document,
)
from perdure.memory.contracts.orders import GateOrder, LearnOrder, Order, PanelOrder, ProbeOrder, kind_of, learner_of
from perdure.memory.contracts.panel_results import PanelResult, SampledScores, SkillScores
from perdure.memory.contracts.results import Drift, GateResult, LearnResult, Leg, ProbeResult, ProbeScore, RatioStats, Selection
from perdure.memory.json_value import to_json

LEG = Leg(
    state="passed",
    role="earlier",
    reference="v0",
    margin=0.25,
    n=12,
    wins=3,
    losses=1,
    mean_difference=0.125,
    interval=(-0.25, 0.5),
    wealth=43.7,
    need=20.0,
    anchor_wealth=0.25,
    note="trained: held outside the pool",
    reference_score=0.5,
    candidate_score=0.625,
    candidate_failures=1,
    voids=2,
)
GATE = gate_result(environments={"a": LEG, "b": Leg(state="vacuous")}, pooled=LEG, trained={"c": LEG})
PROBE = ProbeResult(version="v1", environments={"a": ProbeScore(score=None, low=0.0, high=1.0, episodes=0, failed=50)})

SAMPLED = replace(PROBE, temperature=0.7, samples=4)
STRICT = SampledScores(items=3, base=0.5, before=0.25, version=0.75, kept=None)
PANEL = PanelResult(
    version="v2",
    before="v1",
    base="v0",
    skills={
        "sums": SkillScores(
            measure="choice",
            items=3,
            limit=0.05,
            base=0.5,
            before=0.5,
            version=0.25,
            lost_against=("before", "base"),
            sampled={"strict": STRICT},
        ),
        "texts": SkillScores(measure="cross_entropy", items=2, limit=0.05, base=3.5, before=3.25, version=3.25),
    },
    left_out=1,
)


@pytest.mark.parametrize(
    "order",
    [
        LearnOrder(learner="grpo", options={"lr": 1e-3, "hints": True, "variant": "dapo"}, gate=False, profile="strict", start="v3"),
        LearnOrder(learner="sft"),
        LearnOrder(learner="grpo", why="door-code succeeds in 25 %"),
        GateOrder(candidate="v2", profile="economy"),
        GateOrder(candidate="v2", leads_to="promotion", why="the gain was shown"),
        ProbeOrder(version="v2", episodes=7, temperature=0.7, samples=4),
        ProbeOrder(),
        PanelOrder(),
        PanelOrder(version="v2", asked="all"),
    ],
)
def test_an_order_is_read_as_it_was_written(order: Order) -> None:
    assert read_order(kind_of(order), learner_of(order), json.loads(to_json(order_document(order)))) == order


@pytest.mark.parametrize(
    "result",
    [
        learn_result(GATE),
        learn_result(None),
        replace(learn_result(None), selection=Selection(step=8, reason="held", share=0.4)),
        GATE,
        replace(GATE, evidence=replace(GATE.evidence, pooled=None)),
        PROBE,
        SAMPLED,
        PANEL,
        replace(GATE, panel=PANEL),
    ],
)
def test_a_result_is_read_as_it_was_written(result: LearnResult | GateResult | ProbeResult | PanelResult) -> None:
    kind = {LearnResult: "learn", GateResult: "gate", ProbeResult: "probe", PanelResult: "probe"}[type(result)]
    assert read_result(kind, json.loads(to_json(result_document(result)))) == result  # type: ignore[arg-type]


def test_documents_of_older_programs_are_read_with_what_they_stood_for() -> None:
    order = order_document(LearnOrder(learner="grpo", start="v1", why="a reason"))
    del order["why"]
    assert read_order("learn", "grpo", order) == LearnOrder(learner="grpo", start="v1")
    assert read_order("gate", None, {"candidate": "v2", "profile": None}) == GateOrder(candidate="v2")
    assert read_order("probe", None, {"version": "v1", "episodes": 50}) == ProbeOrder(version="v1")
    assert read_result("probe", {"version": "v1", "environments": {}, "decoding": "greedy"}) == ProbeResult(version="v1", environments={})
    gate = gate_result(environments={"a": replace(LEG, anchor_wealth=None)}, pooled=LEG, trained={"c": LEG})
    learned = learn_result(gate)
    older = json.loads(to_json(result_document(learned)))
    del older["selection"]
    for key in ("alpha", "samples", "temperature", "regressed", "new_anchors", "panel"):
        del older["gate"][key]
    for leg in older["gate"]["environments"].values():
        del leg["anchor_wealth"]
    last = Selection(step=learned.cost.updates, reason="the last step")
    without_share = json.loads(to_json(result_document(learned)))
    del without_share["selection"]["share"]
    assert read_result("learn", without_share) == learned, "the whole way"
    assert read_result("learn", older) == replace(learned, selection=last), "greedy, one answer, no anchors but those of the targets"


def test_an_update_is_read_as_it_was_written() -> None:
    whole = replace(
        update(3, success=0.5, nll=1.5, grad_norm=0.25),
        ratios=RatioStats(ratio_mean=1.0, ratio_max=2.0, ess=0.9, mismatch_kl=0.001),
        drift=Drift(kl_base_new=0.1, kl_base_old=0.2, kl_serving_new=0.3, kl_serving_old=0.4),
        extra_losses={"ewc": 0.5, "distillation": 0.125},
        kl_loss=0.01,
        staleness=2.0,
        lessons=12,
        data_staleness=3.0,
    )
    assert read_update(json.loads(to_json(update_document(whole)))) == whole
    document = update_document(whole)
    assert (document["ewc_loss"], document["distillation_loss"], document["kl_loss"]) == (0.5, 0.125, 0.01)
    assert (document["seconds"], document["tokens_per_s"]) == (1.0, 1234.0)


def test_scripts_find_the_keys_that_were_promised() -> None:
    learned = result_document(learn_result(GATE))
    assert list(learned) == ["version", "verdict", "reason", "diagnostics", "selection", "cost", "gate", "seconds"]
    assert (learned["diagnostics"]["update"], learned["diagnostics"]["candidate_step"]) == (6, 3)
    assert set(learned["selection"]) == {"step", "reason", "ended_early", "checks", "share"}
    assert learned["selection"]["checks"][1] == {
        "step": 3,
        "targets": {"c": {"score": 0.75, "episodes": 16}},
        "old": {"a": {"score": None, "episodes": 0}},
    }
    assert set(learned["seconds"]) == {"learn", "gate"}
    assert set(learned["cost"]) == {"updates", "sampled_tokens", "learned_tokens", "sampling_s", "learning_s"}
    gate = result_document(GATE)
    assert gate == learned["gate"]
    promised = {"verdict", "reason", "environments", "pooled", "gain", "episodes"}
    more = {"gate", "candidate", "serving", "profile", "rounds", "interval", "decoding", "continued_pairs"}
    assert promised | more | {"alpha", "samples", "temperature", "regressed", "new_anchors", "panel"} == set(gate)
    assert gate["episodes"] == {"candidate": 40, "anchor": 52}
    assert gate["gain"]["environments"]["c"]["wealth"] == 43.7
    without = replace(GATE, evidence=replace(GATE.evidence, pooled=None))
    assert result_document(without)["pooled"] == {"state": "not asked", "note": "fewer than two earlier environments vote"}
    probe = result_document(PROBE)
    assert set(probe) == {"version", "decoding", "temperature", "samples", "environments"}
    assert (probe["version"], probe["decoding"], set(probe["environments"]["a"])) == (
        "v1",
        "greedy",
        {"score", "low", "high", "episodes", "failed"},
    )
    sampled = result_document(replace(PROBE, temperature=0.7, samples=4))
    assert (sampled["decoding"], sampled["temperature"], sampled["samples"]) == ("sampled", 0.7, 4)
