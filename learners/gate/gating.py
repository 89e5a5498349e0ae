"""The gate as a process: what is played, in which order, and what is stored. `decision.py` decides.

The reference plays a seed first. Where the environment fails there, the pair is void and the next seed takes its place; only then does the
candidate play, and a failure on its side counts as a difference of -1. Pairs are played in blocks, so that each side is one batch; every
pair played is stored, and those that the decision did not need stay unused.

**Nothing restarts.** Gating the same candidate again first feeds its stored pairs against the same references, in the order in which
they were played: wealth goes on from where it stood, and a rejection stands without a new episode. After a gate that was closed, `nmax`
further rounds on new seeds are allowed. A gate that was cut off goes on as the same gate: the rounds that were left, and the very
seeds whose outcomes were lost, so that a candidate cannot get rid of seeds on which it brings the process down.

**Fresh seeds.** Seeds come from the gate's own number, so no gate plays another's; a seed that chance repeats is passed over.

Play is greedy here, as the player sees to it: scores of a gate are not those of live episodes, which sample.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from perdure.envs.seeds import dev_seed, gate_seed
from perdure.learners.gate.decision import Comparison, Gate, GateSettings, Scope, fix_scope
from perdure.learners.gate.evidence import Evidence, evidence
from perdure.learners.gate.rates import Plan, plan
from perdure.memory import faults, gates
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.json_value import to_json
from perdure.memory.records import Decision, Lease, Pair, Role, Version
from perdure.memory.store import Store

BLOCK_ROUNDS = 4
ENOUGH_PAIRS_TO_PLAN = 100

Draw = tuple[str, int]
"""An environment and a seed."""
Numbers = Mapping[str, float | int | None]


class Player(Protocol):
    """Whoever plays episodes with a version, greedily."""

    def scores(self, version: str, draws: Sequence[Draw]) -> list[float | None]:
        """One batch: a score in [0, 1] for each draw, None where nothing could be scored (crash, time-out, nothing playable)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What a gate came to."""

    gate: int
    candidate: str
    serving: str
    profile: str
    verdict: Decision
    reason: str
    rounds: int
    evidence: Evidence
    played: Mapping[tuple[str, str], Numbers]
    """For each environment and reference: mean scores of both sides, failures of the candidate, void pairs."""
    continued: int
    """Stored pairs of earlier gates of this candidate that were taken up again."""
    candidate_episodes: int
    anchor_episodes: int
    """What was played now, by the candidate and by all references."""

    def as_json(self) -> dict[str, Any]:
        found = self.evidence.as_json()
        for tests in (found["environments"], found["gain"]["environments"]):
            for name, test in tests.items():
                test |= self.played.get((name, test["reference"]), {})
        return {
            "gate": self.gate,
            "candidate": self.candidate,
            "serving": self.serving,
            "profile": self.profile,
            "verdict": self.verdict,
            "reason": self.reason,
            "rounds": self.rounds,
            **found,
            "decoding": "greedy",
            "continued_pairs": self.continued,
            "episodes": {"candidate": self.candidate_episodes, "anchor": self.anchor_episodes},
        }


def run_gate(
    store: Store,
    lease: Lease,
    *,
    candidate: Version,
    serving: Version,
    anchors: Mapping[str, str],
    trained: Collection[str],
    critical: Collection[str],
    anchor_scores: Mapping[str, float],
    serving_scores: Mapping[str, float],
    settings: GateSettings,
    root_seed: int,
    play: Player,
    progress: Callable[[str], None],
) -> GateResult:
    """Gate `candidate` and store every pair. The verdict is the caller's to write (`gates.close_gate`), with whatever follows from it.

    `anchors`: the anchor's name, for every environment that has one; those in `trained` are left out of the pool. Without trained
    ones only retention is judged. `anchor_scores` and `serving_scores` are means on dev seeds (`dev_scores`), which decide who is
    able to vote. Where past gates differed much, `nmax` goes up. Raises `InputError` where even that would not do, `LeaseLost` where
    another process has taken over; whatever else stops it, the stored pairs are taken up by the next gate of this candidate.
    """
    if candidate.name == serving.name and trained:
        raise InputError(f"{candidate.name} is serving: there is no gain over itself to show; gate it without a target")
    scope = fix_scope(
        settings,
        serving=serving.name,
        anchors=anchors,
        trained=trained,
        critical=critical,
        anchor_scores=anchor_scores,
        serving_scores=serving_scores,
    )
    former = gates.gates_of(store, candidate.name)
    if former and former[-1].verdict is None:
        scope = replace(scope, settings=replace(scope.settings, nmax=former[-1].settings["nmax"]))
    elif (q := past_q(store)) is not None:
        scope = _with_enough_rounds(scope, plan(scope, q), progress)
    told = _seeds_to_go_on_with(former[-1] if former else None, lease, scope)
    fixed = {**scope.as_json(), "seeds_of_gate": told}
    gate_id = gates.start_gate(store, lease, candidate.name, serving.name, scope.settings.profile, fixed)
    seeds_of = told or gate_id
    table = _Table(scope, candidate.name, partial(gate_seed, root_seed, seeds_of), partial(gates.seed_used, store), play)
    last_closed = max((gate.id for gate in former if gate.verdict is not None), default=0)
    for old in (old for old in former if old.id <= last_closed):
        table.take(gates.pairs_of(store, old.id))
    gate = Gate(scope, limit=_rounds_stored(table, scope) + scope.settings.nmax)
    for old in (old for old in former if old.id > last_closed):
        table.take(gates.pairs_of(store, old.id), same_gate=old.id >= seeds_of)
    table.feed(gate)
    continued = sum(map(len, gate.history.values()))
    if continued:
        progress(f"gate {gate_id} of {candidate.name}: continues with {continued} stored pairs, {gate.rounds} rounds")
    while gate.open:
        rounds = max(scope.settings.nmin - gate.rounds, BLOCK_ROUNDS)
        pairs = table.play_block(gate, min(rounds, gate.limit - gate.rounds))
        gates.add_pairs(store, lease, gate_id, pairs)
        faults.point("mid-gate")
        table.feed(gate)
        progress(
            f"gate {gate_id} of {candidate.name}: round {gate.rounds} of at most {gate.limit}, {len(gate.open)} comparisons open, "
            f"{table.candidate_episodes} + {table.reference_episodes} episodes"
        )
    assert gate.verdict is not None
    return GateResult(
        gate=gate_id,
        candidate=candidate.name,
        serving=serving.name,
        profile=scope.settings.profile,
        verdict=gate.verdict,
        reason=gate.reason,
        rounds=gate.rounds,
        evidence=evidence(gate),
        played=table.numbers(gate),
        continued=continued,
        candidate_episodes=table.candidate_episodes,
        anchor_episodes=table.reference_episodes,
    )


def _with_enough_rounds(scope: Scope, planned: Plan, progress: Callable[[str], None]) -> Scope:
    """A noisy stream needs more rounds than the profile has: more than 20 % of the candidates that hold would be refused."""
    nmax = planned.rounds()
    if nmax != scope.settings.nmax:
        progress(f"up to {nmax} rounds instead of {scope.settings.nmax}: past gates differed in {planned.q:.0%} of their pairs")
    return replace(scope, settings=replace(scope.settings, nmax=nmax))


def dev_scores(play: Player, versions: Mapping[str, str], *, root_seed: int, episodes: int = 16) -> dict[str, float]:
    """Mean score of one version in each environment, on its first dev seeds: who can vote is decided by these, before the gate.

    An environment that fails in half of them or more gets no score, and so votes.
    """
    scores = {}
    for version in dict.fromkeys(versions.values()):
        names = [name for name in versions if versions[name] == version]
        draws = [(name, dev_seed(root_seed, name, r)) for name in names for r in range(episodes)]
        found = _scores(play, version, draws)
        for name in names:
            known = [score for draw, score in zip(draws, found, strict=True) if draw[0] == name and score is not None]
            if 2 * len(known) > episodes:
                scores[name] = sum(known) / len(known)
    return scores


def past_q(store: Store) -> float | None:
    """The mean squared difference on earlier environments in gates that were not rejected; None before there are enough pairs to plan with.

    Rejected ones are left out because q is wanted for a candidate that holds.
    """
    pairs, q = gates.squared_differences(store)
    return q if pairs >= ENOUGH_PAIRS_TO_PLAN else None


class _Table:
    """The pairs of one gate: those at hand, and how new ones are drawn and played."""

    def __init__(
        self,
        scope: Scope,
        candidate: str,
        seed_of: Callable[[str, int], int],
        seed_used: Callable[[str, Role, str, int], bool],
        play: Player,
    ) -> None:
        self._scope = scope
        self._candidate = candidate
        self._seed_of = seed_of
        self._play = play
        self._seed_used = seed_used
        self._comparisons = {(c.environment, c.reference): c for c in (*scope.hold, *scope.gain)}
        self._valid: dict[Comparison, list[Pair]] = {c: [] for c in self._comparisons.values()}
        self._drawn: dict[Comparison, set[int]] = {c: set() for c in self._valid}
        self._next_draw: Counter[Comparison] = Counter()
        self._voids: Counter[Comparison] = Counter()
        self._known: dict[tuple[str, Draw], float | None] = {}
        self.candidate_episodes = 0
        self.reference_episodes = 0

    def take(self, stored: Sequence[Pair], same_gate: bool = False) -> None:
        """Take up stored pairs; those of comparisons outside this gate's scope are passed over. Voids count in the same gate only."""
        for pair in stored:
            # By environment and reference: one that was trained then may be an earlier one now.
            comparison = self._comparisons.get((pair.environment, pair.reference))
            if comparison is None:
                continue
            if pair.difference is not None:
                self._valid[comparison].append(pair)
            elif same_gate:
                self._voids[comparison] += 1

    def feed(self, gate: Gate) -> None:
        """Hand over whole rounds for as long as every open comparison has its next pair."""
        while gate.open and all(len(self._valid[c]) > len(gate.history[c]) for c in gate.open):
            gate.round({c: _difference(self._valid[c][len(gate.history[c])]) for c in gate.open})

    def play_block(self, gate: Gate, rounds: int) -> list[Pair]:
        """Play what `rounds` more rounds need of the open comparisons; gives all new pairs, the void ones too."""
        missing = {c: len(gate.history[c]) + rounds - len(self._valid[c]) for c in gate.open}
        pairs: list[Pair] = []
        ready: list[tuple[Comparison, int, int, float]] = []
        while missing:
            drawn = [(c, *self._draw(c)) for c, n in missing.items() for _ in range(n)]
            self._ask([(c.reference, (c.environment, seed)) for c, _, seed in drawn])
            missing = {}
            for c, draw, seed in drawn:
                score = self._known[c.reference, (c.environment, seed)]
                if score is None:
                    pairs.append(_pair(c, draw, seed, None, None))
                    self._voids[c] += 1
                    missing[c] = missing.get(c, 0) + 1
                else:
                    ready.append((c, draw, seed, score))
            spoilt = [c for c in missing if self._voids[c] > self._scope.settings.max_voids]
            if spoilt:
                names = ", ".join(f"{c.environment} ({self._voids[c]} void pairs with {c.reference})" for c in spoilt)
                gate.end("inconclusive", f"the environment fails too often to judge: {names}")
                return pairs
        self._ask([(self._candidate, (c.environment, seed)) for c, _, seed, _ in ready])
        for c, draw, seed, score in ready:
            pair = _pair(c, draw, seed, score, self._known[self._candidate, (c.environment, seed)])
            pairs.append(pair)
            self._valid[c].append(pair)
        return pairs

    def numbers(self, gate: Gate) -> dict[tuple[str, str], Numbers]:
        """What the decision used, as scores. A failed candidate scores 0 in the mean; in the test it counts as -1."""
        found: dict[tuple[str, str], Numbers] = {}
        for comparison, pairs in self._valid.items():
            used = pairs[: len(gate.history[comparison])]
            found[comparison.environment, comparison.reference] = {
                "reference_score": sum(pair.reference_score or 0.0 for pair in used) / len(used) if used else None,
                "candidate_score": sum(pair.candidate_score or 0.0 for pair in used) / len(used) if used else None,
                "candidate_failures": sum(pair.candidate_score is None for pair in used),
                "voids": self._voids[comparison],
            }
        return found

    def _draw(self, comparison: Comparison) -> tuple[int, int]:
        """The next draw and its seed; one that was compared with this reference before, in any gate, is passed over."""
        while True:
            draw = self._next_draw[comparison]
            self._next_draw[comparison] += 1
            seed = self._seed_of(comparison.environment, draw)
            if seed not in self._drawn[comparison] and not self._seed_used(*comparison, seed):
                self._drawn[comparison].add(seed)
                return draw, seed

    def _ask(self, wanted: Sequence[tuple[str, Draw]]) -> None:
        """Play what is not known yet, one batch for each version."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._known]
        for version in dict.fromkeys(version for version, _ in new):
            draws = [draw for asked, draw in new if asked == version]
            for draw, score in zip(draws, _scores(self._play, version, draws), strict=True):
                self._known[version, draw] = score
            if version == self._candidate:
                self.candidate_episodes += len(draws)
            else:
                self.reference_episodes += len(draws)


def _scores(play: Player, version: str, draws: Sequence[Draw]) -> list[float | None]:
    """The player's answer, refused where it is not one score in [0, 1] (or None) for each draw."""
    scores = play.scores(version, draws)
    if len(scores) != len(draws):
        raise RuntimeFailure(f"{version} was asked for {len(draws)} scores and gave {len(scores)}: nothing of this batch is used")
    for (environment, seed), score in zip(draws, scores, strict=True):
        if score is not None and not 0 <= score <= 1:
            raise RuntimeFailure(
                f"{version} scored {score} in {environment}, seed {seed}: a score lies in [0, 1]; nothing of this batch is used"
            )
    return scores


def _pair(comparison: Comparison, draw: int, seed: int, reference_score: float | None, candidate_score: float | None) -> Pair:
    """A void pair has no reference score and no difference; a failed candidate counts as a difference of -1."""
    difference = None if reference_score is None else -1.0 if candidate_score is None else candidate_score - reference_score
    return Pair(
        environment=comparison.environment,
        role=comparison.role,
        draw=draw,
        seed=seed,
        reference=comparison.reference,
        reference_score=reference_score,
        candidate_score=candidate_score,
        difference=difference,
    )


def _difference(pair: Pair) -> float:
    assert pair.difference is not None
    return pair.difference


def _rounds_stored(table: _Table, scope: Scope) -> int:
    """How many rounds the pairs at hand supply, played without a limit."""
    gate = Gate(scope, limit=2**31)
    table.feed(gate)
    return gate.rounds


def _seeds_to_go_on_with(last: gates.Gate | None, lease: Lease, scope: Scope) -> int | None:
    """The gate whose seeds to take: the candidate's last one where it was cut off with the same scope; None for new seeds."""
    if last is None or last.verdict is not None:
        return None
    told: int | None = last.settings.get("seeds_of_gate")
    if {**last.settings, "seeds_of_gate": None} != {**json.loads(to_json(scope.as_json())), "seeds_of_gate": None}:
        return None
    # In the same attempt it is that very gate, which is gone on with as it was written down.
    return told if (last.job, last.attempt) == (lease.subject, lease.attempt) else told or last.id
