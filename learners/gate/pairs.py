"""The pairs of one gate: stored ones, and drawing and playing new ones. `decision.py` judges them.

The reference plays a seed first. If it gets no score, the pair is void and the next seed replaces it. Then the candidate plays the seed; if
it gets no score, the difference is -1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from perdure.learners.gate.decision import GateDecision
from perdure.learners.gate.evidence import PlayedScores
from perdure.learners.gate.scope import Comparison, Scope, too_many_voids
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import Pair, Role

Draw = tuple[str, int]
"""An environment and a seed."""


class Player(Protocol):
    """Plays episodes with a version, greedily."""

    def scores(self, version: str, draws: Sequence[Draw]) -> list[float | None]:
        """One batch: a score in [0, 1] for each draw, None if nothing could be scored (crash, time-out, nothing playable)."""
        ...


class PairTable:
    """The pairs of one gate."""

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
        """Add stored pairs, except those outside this gate's scope. Void pairs count only if they are of the same gate."""
        for pair in stored:
            # By environment and reference only: an environment that was trained then may be an earlier one now.
            comparison = self._comparisons.get((pair.environment, pair.reference))
            if comparison is None:
                continue
            if pair.difference is not None:
                self._valid[comparison].append(pair)
            elif same_gate:
                self._voids[comparison] += 1

    def feed(self, gate: GateDecision) -> None:
        """Pass whole rounds to the gate, as long as every open comparison has a pair for the next one."""
        while gate.open and all(len(self._valid[c]) > len(gate.history[c]) for c in gate.open):
            gate.round({c: _difference(self._valid[c][len(gate.history[c])]) for c in gate.open})

    def play_block(self, gate: GateDecision, rounds: int) -> list[Pair]:
        """Play the pairs that the open comparisons need for `rounds` more rounds; returns all new pairs, void ones included."""
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
            spoilt = {c: self._voids[c] for c in missing if too_many_voids(self._voids[c], self._voids[c] + len(self._valid[c]))}
            if spoilt:
                gate.spoil(spoilt)
                return pairs
        self._ask([(self._candidate, (c.environment, seed)) for c, _, seed, _ in ready])
        for c, draw, seed, score in ready:
            pair = _pair(c, draw, seed, score, self._known[self._candidate, (c.environment, seed)])
            pairs.append(pair)
            self._valid[c].append(pair)
        return pairs

    def played(self, gate: GateDecision) -> dict[tuple[str, str], PlayedScores]:
        """Mean scores of the pairs that the decision used, by environment and reference."""
        scores = {}
        for comparison, pairs in self._valid.items():
            used = pairs[: len(gate.history[comparison])]
            scores[comparison.environment, comparison.reference] = PlayedScores(
                reference_score=_mean([pair.reference_score or 0.0 for pair in used]),
                candidate_score=_mean([pair.candidate_score or 0.0 for pair in used]),
                candidate_failures=sum(pair.candidate_score is None for pair in used),
                voids=self._voids[comparison],
            )
        return scores

    def _draw(self, comparison: Comparison) -> tuple[int, int]:
        """The next draw and its seed, skipping seeds that any gate has compared with this reference."""
        while True:
            draw = self._next_draw[comparison]
            self._next_draw[comparison] += 1
            seed = self._seed_of(comparison.environment, draw)
            if seed not in self._drawn[comparison] and not self._seed_used(*comparison, seed):
                self._drawn[comparison].add(seed)
                return draw, seed

    def _ask(self, wanted: Sequence[tuple[str, Draw]]) -> None:
        """Play the draws that have no score yet, one batch per version."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._known]
        for version in dict.fromkeys(version for version, _ in new):
            draws = [draw for asked, draw in new if asked == version]
            for draw, score in zip(draws, play_scores(self._play, version, draws), strict=True):
                self._known[version, draw] = score
            if version == self._candidate:
                self.candidate_episodes += len(draws)
            else:
                self.reference_episodes += len(draws)


def play_scores(play: Player, version: str, draws: Sequence[Draw]) -> list[float | None]:
    """The player's scores; raises `RuntimeFailure` unless there is one in [0, 1], or None, for each draw."""
    scores = play.scores(version, draws)
    if len(scores) != len(draws):
        raise RuntimeFailure(f"{version} was asked for {len(draws)} scores and gave {len(scores)}: this batch is discarded")
    for (environment, seed), score in zip(draws, scores, strict=True):
        if score is not None and not 0 <= score <= 1:
            raise RuntimeFailure(
                f"{version} scored {score} in {environment}, seed {seed}: a score must be in [0, 1]; this batch is discarded"
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


def _mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
