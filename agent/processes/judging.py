"""The gate of a job: what it compares in this home, and what its verdict leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from perdure.agent.processes.job_work import Work
from perdure.agent.processes.panel_work import panel_of_candidate
from perdure.agent.watching.conclusion import conclude
from perdure.agent.watching.finding import confirming_settings
from perdure.learners.gate.former_gates import alpha_of, sampling_of
from perdure.learners.gate.gating import GateCase, GateWork, run_gate
from perdure.learners.gate.lifetime import e_lond_alpha
from perdure.learners.gate.player import Player, Sampling
from perdure.learners.gate.promotion import lost_on_panel, need_dev_scores
from perdure.learners.gate.reference_scores import ScoreSource, known_scores
from perdure.learners.gate.scope import PROFILES, GateSettings
from perdure.learners.panel.panel_limits import refusal_of
from perdure.memory import faults
from perdure.memory.contracts.orders import Consequence, GateOrder, LearnOrder
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import GateResult, LearnResult, Result
from perdure.memory.environments import anchor_of, environments_in_use, refuse_retired
from perdure.memory.errors import RuntimeFailure
from perdure.memory.files import check_files
from perdure.memory.gates import GateRow, candidate_gates, close_gate
from perdure.memory.jobs import set_job_state
from perdure.memory.processes import record_event
from perdure.memory.records import Version
from perdure.memory.store import Store
from perdure.memory.versions import get_version, promote, reject, serving


def judge(work: Work, candidate: Version, order: LearnOrder | GateOrder) -> GateResult:
    """Gate a candidate; the job's targets are what it was trained for. Raises as `run_gate` does, and `InputError` if one is retired."""
    for name in work.job.targets:
        refuse_retired(work.store, name)
    set_job_state(work.store, work.lease, "gating")
    now_serving, settings = serving(work.store), _settings(work, candidate, order)
    player = work.player("gate", Sampling(temperature=settings.temperature, samples=settings.samples))
    if _leads_to(order) == "rollback":
        case = _confirming_case(work, candidate, now_serving, settings)
    else:
        panel = panel_of_candidate(work, candidate, now_serving) if work.config.gate.panel else None
        case = _case(work, candidate, now_serving, order, settings, player, panel)

    def progress(line: str) -> None:
        work.pulse.say("gating", line)

    gating = GateWork(store=work.store, lease=work.lease, play=player, root_seed=work.config.seed, progress=progress)
    result = run_gate(case, gating)
    # If another version stood in for an anchor, the anchor itself was not beaten.
    beaten = [name for name in result.new_anchors if case.anchors[name] == (anchor_of(work.store, name) or case.serving.name)]
    return replace(result, new_anchors=tuple(beaten))


def apply_verdict(work: Work, result: Result) -> None:
    """Close the gate and do what its verdict leads to: the candidate is promoted, rejected, or stays what it is."""
    gate, order = result.gate if isinstance(result, LearnResult) else result, work.job.order
    if not isinstance(gate, GateResult) or not isinstance(order, LearnOrder | GateOrder):
        return
    close_gate(work.store, work.lease, gate)
    faults.point("between-verdict-and-promotion")
    match _leads_to(order), gate.verdict:
        case "promotion", "promote":
            promote(work.store, gate.candidate, gate.reason, gate=gate.gate, lease=work.lease, anchors=gate.new_anchors)
        case "promotion", "reject" if get_version(work.store, gate.candidate).state == "candidate":
            reject(work.store, gate.candidate, work.lease)
        case "rollback", _:
            conclude(work.store, work.job.id, gate)


def _case(
    work: Work,
    candidate: Version,
    now_serving: Version,
    order: LearnOrder | GateOrder,
    settings: GateSettings,
    player: Player,
    panel: PanelResult | None,
) -> GateCase:
    """What a gate of a new version compares. References of which too few scores are known play dev seeds, unless the panel refuses."""
    targets = work.job.targets
    anchors = _anchors(work, now_serving)
    of_anchors, of_serving = need_dev_scores(anchors, targets, now_serving.name)
    source = ScoreSource(store=work.store, lease=work.lease, play=player, temperature=settings.temperature, root_seed=work.config.seed)
    scores: dict[tuple[str, str], float] = {}
    if panel is None or refusal_of(panel) is None:
        work.pulse.say("gating", f"{candidate.name}: what its references score")
        scores = known_scores(source, dict.fromkeys([*of_anchors.items(), *of_serving.items()]), candidate.name)
    return GateCase(
        candidate=candidate,
        serving=now_serving,
        settings=settings,
        anchors=anchors,
        trained=targets,
        critical=tuple(row.name for row in environments_in_use(work.store) if row.critical),
        anchor_scores=_by_environment(scores, anchors),
        serving_scores=_by_environment(scores, dict.fromkeys(targets, now_serving.name)),
        leads_to=_leads_to(order),
        panel=panel,
    )


def _confirming_case(work: Work, former: Version, now_serving: Version, settings: GateSettings) -> GateCase:
    """Only whether the version before is better than the serving one today: no retention, and no score from before."""
    return GateCase(
        candidate=former,
        serving=now_serving,
        settings=confirming_settings(settings),
        anchors={},
        trained=work.job.targets,
        leads_to="rollback",
    )


def _leads_to(order: LearnOrder | GateOrder) -> Consequence:
    return "promotion" if isinstance(order, LearnOrder) else order.leads_to


def _settings(work: Work, candidate: Version, order: LearnOrder | GateOrder) -> GateSettings:
    configured = work.config.gate
    temperature, samples = work.config.gate_sampling
    settings = replace(PROFILES[order.profile or configured.profile], alpha=configured.alpha, temperature=temperature, samples=samples)
    if configured.over_time == "each" or _leads_to(order) == "rollback":
        return settings
    return replace(settings, alpha=_alpha_over_time(work.store, candidate.name, settings))


def _alpha_over_time(store: Store, candidate: str, settings: GateSettings) -> float:
    """The alpha of a candidate by e-LOND; that of its first gate if it is gated again, whose wealth goes on.

    Answers that are sampled otherwise begin new evidence, and so count as another candidate.
    """
    sampling = Sampling(temperature=settings.temperature, samples=settings.samples)
    firsts: dict[tuple[str, Sampling], GateRow] = {}
    promoted: set[tuple[str, Sampling]] = set()
    for gate in candidate_gates(store):
        if gate.result is not None and lost_on_panel(gate.result):
            continue  # no test: nothing is left to chance there
        test = (gate.candidate, sampling_of(gate.terms))
        firsts.setdefault(test, gate)
        if gate.verdict == "promote":
            promoted.add(test)
    own = (candidate, sampling)
    if own in firsts and (alpha := alpha_of(firsts[own].terms)) is not None:
        return alpha
    return e_lond_alpha(settings.alpha, len(firsts) + 1, len(promoted))


def _anchors(work: Work, now_serving: Version) -> dict[str, str]:
    """The anchor of every environment. If the files of one are gone or damaged, the serving version stands in, and an event says so."""
    anchors = {row.name: anchor_of(work.store, row.name) or now_serving.name for row in environments_in_use(work.store)}
    lacks = {version: _lack(work.store, get_version(work.store, version)) for version in set(anchors.values())}
    for name, anchor in anchors.items():
        if (why := lacks[anchor]) is not None:
            line = f"its anchor {anchor} cannot be played, so that this gate compares with {now_serving.name}, which serves: {why}"
            record_event(work.store, "anchor missing", name, line)
            work.pulse.say("gating", f"{name}: {line}")
            anchors[name] = now_serving.name
    return anchors


def _lack(store: Store, version: Version) -> str | None:
    """Why a version cannot be played, with the remedy; None if its files are whole."""
    if version.path is None:
        return None
    folder = store.home / version.path
    if not folder.is_dir():
        return f"{folder} is gone; put it back from a backup, and the next gate compares with {version.name} again"
    try:
        check_files(folder, version.hash)
    except RuntimeFailure as error:
        return str(error)
    return None


def _by_environment(scores: Mapping[tuple[str, str], float], versions: Mapping[str, str]) -> dict[str, float]:
    return {name: scores[name, version] for name, version in versions.items() if (name, version) in scores}
