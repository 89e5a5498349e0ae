"""A gate of a simulated home. The decision, the election of anchors and the search for what fell are those of `learners/gate/`.

What is done around them follows `learners/gate/gating.py`. Left out: void pairs (a reference that fails is drawn again), the plan that
raises `nmax` on a noisy stream, and e-LOND.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.agent.studies.lives.simulated_home import ReferenceScores, SimulatedHome
from perdure.agent.studies.lives.skill_model import PairSource, pair_source
from perdure.learners.gate.decision import GateDecision, Rounds
from perdure.learners.gate.election import AnchorElection
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.promotion import need_dev_scores
from perdure.learners.gate.regressions import RegressionSearch
from perdure.learners.gate.scope import PROFILES, Comparison, GateSettings, Scope, fix_scope
from perdure.memory.contracts.results import GateResult

DEV_SEEDS_A_GATE, MOST_DEV_SEEDS = 16, 64


def gate(home: SimulatedHome, candidate: str, targets: tuple[str, ...], gate_id: int, *, leads_to_promotion: bool = True) -> GateResult:
    """Gate a candidate; its stored pairs are taken up again, and the new ones are stored. The caller applies the verdict."""
    settings = PROFILES["standard"]
    _count_references(home, candidate)
    of_anchors, of_serving = need_dev_scores(home.anchors, targets, home.serving)
    of_anchor = dev_scores(home, of_anchors, settings.samples)
    known = of_anchor | dev_scores(home, of_serving, settings.samples)
    scope = fix_scope(
        settings,
        serving=home.serving,
        anchors=home.anchors,
        trained=targets,
        anchor_scores=of_anchor,
        serving_scores={name: known[name] for name in targets},
    )
    player = _PairsOfCandidate(home, candidate, scope.settings)
    decision = GateDecision(scope, limit=_stored_rounds(scope, player) + scope.settings.nmax)
    before = player.stored()
    _play(decision, player)
    history = decision.history
    new_anchors: tuple[str, ...] = ()
    regressed: tuple[str, ...] = ()
    if decision.verdict == "promote" and leads_to_promotion:
        election = AnchorElection(scope, decision.history, of_anchor)
        _play(election, player)
        history, new_anchors = {**history, **election.history}, election.new_anchors
    elif decision.verdict == "reject":
        search = RegressionSearch(scope, decision.history)
        _play(search, player)
        history, regressed = {**history, **search.history}, search.regressed
    episodes = player.played * scope.settings.samples
    assert decision.verdict is not None
    player.remember_references()
    return GateResult(
        gate=gate_id,
        candidate=candidate,
        serving=home.serving,
        profile=scope.settings.profile,
        verdict=decision.verdict,
        reason=decision.reason,
        rounds=decision.rounds,
        evidence=evidence(decision, history=history, regressed=regressed),
        continued_pairs=before,
        candidate_episodes=episodes,
        anchor_episodes=episodes,
        alpha=scope.settings.alpha,
        samples=scope.settings.samples,
        temperature=scope.settings.temperature,
        new_anchors=new_anchors,
    )


def dev_scores(home: SimulatedHome, versions: Mapping[str, str], samples: int) -> dict[str, float]:
    """The mean scores of these versions, by environment, after sixteen more dev seeds each if there are not enough yet."""
    found = {}
    for name, version in versions.items():
        tally = home.scores[version, name]
        if tally.dev_seeds < MOST_DEV_SEEDS:
            tally.dev_seeds += DEV_SEEDS_A_GATE
            tally.add(home, version, name, DEV_SEEDS_A_GATE, samples)
        found[name] = tally.total / tally.seeds
    return found


def _count_references(home: SimulatedHome, candidate: str) -> None:
    """Scores of references count once the gate of another candidate begins: never in the gates of the candidate that they judged."""
    left = []
    for reference in home.uncounted:
        if reference.candidate == candidate:
            left.append(reference)
        else:
            home.scores[reference.version, reference.environment].add(
                home, reference.version, reference.environment, reference.seeds, reference.samples
            )
    home.uncounted = left


class _PairsOfCandidate:
    """The pairs of one candidate: those that are stored first, then new ones."""

    def __init__(self, home: SimulatedHome, candidate: str, settings: GateSettings) -> None:
        self._home = home
        self._candidate = candidate
        self._settings = settings
        self._pairs: dict[Comparison, list[float]] = {}
        self._sources: dict[Comparison, PairSource] = {}
        self._new: dict[Comparison, int] = {}

    @property
    def played(self) -> int:
        """New pairs."""
        return sum(self._new.values())

    def stored(self) -> int:
        return sum(map(len, self._pairs.values()))

    def pairs_of(self, comparison: Comparison) -> list[float]:
        found = self._pairs.get(comparison)
        if found is None:
            home, key = self._home, (self._candidate, comparison.environment, comparison.reference)
            found = self._pairs[comparison] = home.pairs[key]
            self._sources[comparison] = pair_source(
                home.success(comparison.reference, comparison.environment),
                home.success(self._candidate, comparison.environment),
                home.model,
                self._settings.samples,
                home.rng,
            )
            self._new[comparison] = 0
        return found

    def difference(self, comparison: Comparison, place: int) -> float:
        """The pair at this place of a comparison's history."""
        pairs = self.pairs_of(comparison)
        if place == len(pairs):
            pairs.append(self._sources[comparison]())
            self._new[comparison] += 1
        return pairs[place]

    def remember_references(self) -> None:
        self._home.uncounted += [
            ReferenceScores(
                candidate=self._candidate,
                version=comparison.reference,
                environment=comparison.environment,
                seeds=n,
                samples=self._settings.samples,
            )
            for comparison, n in self._new.items()
            if n
        ]


def _play(machine: Rounds, player: _PairsOfCandidate) -> None:
    history, difference = machine.history, player.difference
    while machine.open:
        machine.round({comparison: difference(comparison, len(history[comparison])) for comparison in machine.open})


def _stored_rounds(scope: Scope, player: _PairsOfCandidate) -> int:
    """The number of rounds in the stored pairs."""
    if not any(player.pairs_of(comparison) for comparison in scope.hold):
        return 0
    machine = GateDecision(scope, limit=2**31)
    history = machine.history
    while machine.open and all(len(player.pairs_of(c)) > len(history[c]) for c in machine.open):
        machine.round({c: player.pairs_of(c)[len(history[c])] for c in machine.open})
    return machine.rounds
