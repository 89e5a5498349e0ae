"""The records of `contracts/` as JSON documents, and back: the only place that knows their keys.

A document is written once, to the store or by `--json`, and read once, when a row becomes a record. Documents that an older program wrote
lack the newer keys, and are read with the value that they stood for then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TypeVar

from perdure.memory.contracts.orders import GateOrder, JobKind, LearnOrder, Order, PanelOrder, ProbeOrder
from perdure.memory.contracts.panel_json import panel_document, read_panel
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import (
    Cost,
    Drift,
    Evidence,
    GateResult,
    GroupStats,
    LearnResult,
    Leg,
    ProbeResult,
    ProbeScore,
    RatioStats,
    Result,
    Selection,
    StepScore,
    StepScores,
    Update,
)
from perdure.memory.json_value import Document

Part = TypeVar("Part", GroupStats, RatioStats, Drift, Cost)

GREEDY = "greedy"
NO_POOL = {"state": "not asked", "note": "fewer than two earlier environments vote"}
LOSS = "_loss"
PANEL = "panel"
"""The key that tells a look at the capability panel from a probe of environments."""


def order_document(order: Order) -> Document:
    match order:
        case LearnOrder():
            return {
                "learn": dict(order.options),
                "gate": order.gate,
                "profile": order.profile,
                "start": order.start,
                "why": order.why,
                "aim": order.aim,
                "follows": order.follows,
            }
        case GateOrder() | ProbeOrder():
            return asdict(order)
        case PanelOrder():
            return {PANEL: order.asked, "version": order.version}


def read_order(kind: JobKind, learner: str | None, document: Document) -> Order:
    match kind:
        case "learn":
            return LearnOrder(
                learner=learner or "",
                options=document["learn"],
                gate=document["gate"],
                profile=document["profile"],
                start=document["start"],
                why=document.get("why"),
                aim=document.get("aim", "gain"),
                follows=document.get("follows"),
            )
        case "gate":
            return GateOrder(**document)
        case "probe" if PANEL in document:
            return PanelOrder(version=document["version"], asked=document[PANEL])
        case "probe":
            return ProbeOrder(**document)


def result_document(result: Result) -> Document:
    match result:
        case LearnResult():
            return {
                "version": result.version,
                "verdict": result.verdict,
                "reason": result.reason,
                "diagnostics": {} if result.diagnostics is None else _last_update(result.diagnostics, result.selection),
                "selection": asdict(result.selection),
                "cost": asdict(result.cost),
                "gate": None if result.gate is None else _gate_document(result.gate),
                "seconds": {"learn": round(result.learn_s, 1), "gate": round(result.gate_s, 1)},
            }
        case GateResult():
            return _gate_document(result)
        case ProbeResult():
            scores = {name: asdict(score) for name, score in result.environments.items()}
            return {
                "version": result.version,
                **_decoding(result.temperature),
                "samples": result.samples,
                "environments": scores,
            }
        case PanelResult():
            return panel_document(result)


def read_result(kind: JobKind, document: Document) -> Result:
    match kind:
        case "learn":
            return LearnResult(
                version=document["version"],
                verdict=document["verdict"],
                reason=document["reason"],
                diagnostics=read_update(document["diagnostics"]) if document["diagnostics"] else None,
                selection=read_selection(document["selection"]) if "selection" in document else _last_step(document),
                cost=Cost(**document["cost"]),
                gate=None if document["gate"] is None else read_gate(document["gate"]),
                learn_s=document["seconds"]["learn"],
                gate_s=document["seconds"]["gate"],
            )
        case "gate":
            return read_gate(document)
        case "probe" if "skills" in document:
            return read_panel(document)
        case "probe":
            scores = {name: ProbeScore(**score) for name, score in document["environments"].items()}
            return ProbeResult(
                version=document["version"],
                environments=scores,
                temperature=document.get("temperature", 0.0),
                samples=document.get("samples", 1),
            )


def update_document(update: Update) -> Document:
    """Flat: one key for each number."""
    return {
        "update": update.update,
        **asdict(update.groups),
        **asdict(update.ratios),
        "staleness": update.staleness,
        **asdict(update.drift),
        "nll": update.nll,
        "kl_loss": update.kl_loss,
        **{f"{name}{LOSS}": value for name, value in update.extra_losses.items()},
        "tokens": update.tokens,
        "sampled_tokens": update.sampled_tokens,
        "grad_norm": update.grad_norm,
        "lr": update.lr,
        "sampling_s": round(update.sampling_s, 3),
        "learning_s": round(update.learning_s, 3),
        "seconds": round(update.seconds, 3),
        "tokens_per_s": None if update.tokens_per_s is None else round(update.tokens_per_s, 1),
        "lessons": update.lessons,
        "data_staleness": update.data_staleness,
    }


def read_update(document: Document) -> Update:
    extra = {key.removesuffix(LOSS): value for key, value in document.items() if key.endswith(LOSS) and key != "kl_loss"}
    return Update(
        update=document["update"],
        groups=_part(GroupStats, {"live_groups": 0, **document}),
        ratios=_part(RatioStats, document),
        drift=_part(Drift, document),
        staleness=document["staleness"],
        nll=document["nll"],
        kl_loss=document["kl_loss"],
        extra_losses=extra,
        tokens=document["tokens"],
        sampled_tokens=document["sampled_tokens"],
        grad_norm=document["grad_norm"],
        lr=document["lr"],
        sampling_s=document["sampling_s"],
        learning_s=document["learning_s"],
        lessons=document["lessons"],
        data_staleness=document["data_staleness"],
    )


def _last_update(update: Update, selection: Selection) -> Document:
    """The numbers of the last update, and which step became the candidate."""
    return {**update_document(update), "candidate_step": selection.step}


def _last_step(document: Document) -> Selection:
    """Of a job from the time when the last step always became the candidate."""
    return Selection(step=document["cost"]["updates"], reason="the last step")


def read_selection(document: Document) -> Selection:
    def scores(of: Mapping[str, Document]) -> dict[str, StepScore]:
        return {name: StepScore(**score) for name, score in of.items()}

    return Selection(
        step=document["step"],
        reason=document["reason"],
        ended_early=document["ended_early"],
        checks=tuple(
            StepScores(step=check["step"], targets=scores(check["targets"]), old=scores(check["old"])) for check in document["checks"]
        ),
        share=document.get("share", 1.0),
    )


def read_gate(document: Document) -> GateResult:
    gain = dict(document["gain"])
    trained = gain.pop("environments")
    return GateResult(
        gate=document["gate"],
        candidate=document["candidate"],
        serving=document["serving"],
        profile=document["profile"],
        verdict=document["verdict"],
        reason=document["reason"],
        rounds=document["rounds"],
        evidence=Evidence(
            environments=_read_legs(document["environments"]),
            pooled=None if document["pooled"] == NO_POOL else _read_leg(document["pooled"]),
            gain=_read_leg(gain),
            trained=_read_legs(trained),
            interval=document["interval"],
            regressed=tuple(document.get("regressed", ())),
        ),
        continued_pairs=document["continued_pairs"],
        candidate_episodes=document["episodes"]["candidate"],
        anchor_episodes=document["episodes"]["anchor"],
        new_anchors=tuple(document.get("new_anchors", ())),
        panel=None if document.get("panel") is None else read_panel(document["panel"]),
        **{name: document[name] for name in ("alpha", "samples", "temperature") if name in document},
    )


def _gate_document(result: GateResult) -> Document:
    evidence = result.evidence
    return {
        "gate": result.gate,
        "candidate": result.candidate,
        "serving": result.serving,
        "profile": result.profile,
        "verdict": result.verdict,
        "reason": result.reason,
        "rounds": result.rounds,
        "environments": {name: asdict(leg) for name, leg in evidence.environments.items()},
        "pooled": asdict(evidence.pooled) if evidence.pooled else NO_POOL,
        "gain": {**asdict(evidence.gain), "environments": {name: asdict(leg) for name, leg in evidence.trained.items()}},
        "interval": evidence.interval,
        "regressed": list(evidence.regressed),
        "new_anchors": list(result.new_anchors),
        "panel": None if result.panel is None else panel_document(result.panel),
        **_decoding(result.temperature),
        "samples": result.samples,
        "alpha": result.alpha,
        "continued_pairs": result.continued_pairs,
        "episodes": {"candidate": result.candidate_episodes, "anchor": result.anchor_episodes},
    }


def _decoding(temperature: float) -> Document:
    return {"decoding": GREEDY if temperature == 0 else "sampled", "temperature": temperature}


def _read_legs(documents: Mapping[str, Document]) -> dict[str, Leg]:
    return {name: _read_leg(document) for name, document in documents.items()}


def _read_leg(document: Document) -> Leg:
    interval = document["interval"]
    return Leg(**{**document, "interval": None if interval is None else tuple(interval)})


def _part(cls: type[Part], document: Document) -> Part:
    return cls(**{field.name: document[field.name] for field in fields(cls)})
