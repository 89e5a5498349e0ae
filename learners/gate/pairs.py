"""The pairs of one gate: stored ones, and drawing and playing new ones. `decision.py` judges them.

The reference answers a seed first. If one of its answers gets no score, the pair is void and the next seed replaces it. Then the candidate
answers the seed; the difference is the mean of its answers' scores less the reference's, and an answer without a score counts as -1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from perdure.learners.gate.decision import Rounds
from perdure.learners.gate.evidence import PlayedScores
from perdure.learners.gate.player import Draw, Player, Scores, play_scores
from perdure.learners.gate.scope import Comparison, Scope, too_many_voids
from perdure.memory.records import Pair, Role


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
        self._candidate = candidate
        self._seed_of = seed_of
        self._play = play
        self._seed_used = seed_used
        self._comparisons = {(c.environment, c.reference): c for c in scope.comparisons}
        self._valid: dict[Comparison, list[Pair]] = {c: [] for c in self._comparisons.values()}
        self._drawn: dict[Comparison, set[int]] = {c: set() for c in self._valid}
        self._next_draw: Counter[Comparison] = Counter()
        self._draws: Counter[Comparison] = Counter()
        """Of this gate, before and after an interruption."""
        self._voids: Counter[Comparison] = Counter()
        self._known: dict[tuple[str, Draw], Scores] = {}
        self.candidate_episodes = 0
        self.reference_episodes = 0

    def take(self, stored: Sequence[Pair], same_gate: bool = False) -> None:
        """Add stored pairs, except those outside this gate's scope. Void pairs count only if they are of the same gate."""
        for pair in stored:
            # By environment and reference only: an environment that was trained then may be an earlier one now.
            comparison = self._comparisons.get((pair.environment, pair.reference))
            if comparison is None:
                continue
            self._draws[comparison] += same_gate
            if pair.difference is not None:
                self._valid[comparison].append(pair)
            elif same_gate:
                self._voids[comparison] += 1

    def feed(self, rounds: Rounds) -> None:
        """Pass whole rounds on, as long as every open comparison has a pair for the next one."""
        while rounds.open and all(len(self._valid[c]) > len(rounds.history[c]) for c in rounds.open):
            rounds.round({c: _difference(self._valid[c][len(rounds.history[c])]) for c in rounds.open})

    def play_block(self, rounds: Rounds, number: int) -> list[Pair]:
        """Play the pairs that the open comparisons need for `number` more rounds; returns all new pairs, void ones included."""
        missing = {c: len(rounds.history[c]) + number - len(self._valid[c]) for c in rounds.open}
        pairs: list[Pair] = []
        ready: list[tuple[Comparison, int, int, float]] = []
        while missing:
            drawn = [(c, *self._draw(c)) for c, n in missing.items() for _ in range(n)]
            self._ask([(c.reference, (c.environment, seed)) for c, _, seed in drawn])
            missing = {}
            for c, draw, seed in drawn:
                score = _reference_score(self._known[c.reference, (c.environment, seed)])
                if score is None:
                    pairs.append(_void(c, draw, seed))
                    self._voids[c] += 1
                    missing[c] = missing.get(c, 0) + 1
                else:
                    ready.append((c, draw, seed, score))
            spoilt = {c: self._voids[c] for c in missing if too_many_voids(self._voids[c], self._draws[c])}
            if spoilt:
                rounds.spoil(spoilt)
                if not rounds.open:
                    return pairs
                missing = {c: n for c, n in missing.items() if c in rounds.open}
        self._ask([(self._candidate, (c.environment, seed)) for c, _, seed, _ in ready])
        for c, draw, seed, score in ready:
            pair = _pair(c, draw, seed, score, self._known[self._candidate, (c.environment, seed)])
            pairs.append(pair)
            self._valid[c].append(pair)
        return pairs

    def played(self, history: Mapping[Comparison, Sequence[float]]) -> dict[tuple[str, str], PlayedScores]:
        """Mean scores of the pairs behind these differences, by environment and reference."""
        scores = {}
        for comparison, pairs in self._valid.items():
            used = pairs[: len(history.get(comparison, ()))]
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
                self._draws[comparison] += 1
                return draw, seed

    def _ask(self, wanted: Sequence[tuple[str, Draw]]) -> None:
        """Play the draws that have no answers yet, one batch per version."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._known]
        for version in dict.fromkeys(version for version, _ in new):
            draws = [draw for asked, draw in new if asked == version]
            for draw, scores in zip(draws, play_scores(self._play, version, draws), strict=True):
                self._known[version, draw] = scores
                if version == self._candidate:
                    self.candidate_episodes += len(scores)
                else:
                    self.reference_episodes += len(scores)


def _reference_score(answers: Scores) -> float | None:
    """The mean; None if an answer has no score, since leaving it out would compare with the answers that went well."""
    known = [score for score in answers if score is not None]
    return sum(known) / len(known) if len(known) == len(answers) else None


def _pair(comparison: Comparison, draw: int, seed: int, reference_score: float, answers: Scores) -> Pair:
    """An answer of the candidate without a score is a difference of -1; with no score at all, so is the pair."""
    known = [score for score in answers if score is not None]
    failed = len(answers) - len(known)
    difference = (sum(known) - failed) / len(answers) - reference_score * (len(known) / len(answers))
    return Pair(
        environment=comparison.environment,
        role=comparison.role,
        draw=draw,
        seed=seed,
        reference=comparison.reference,
        reference_score=reference_score,
        candidate_score=sum(known) / len(answers) if known else None,
        difference=max(-1.0, min(1.0, difference)),
    )


def _void(comparison: Comparison, draw: int, seed: int) -> Pair:
    """A void pair has no scores and no difference."""
    return Pair(
        environment=comparison.environment,
        role=comparison.role,
        draw=draw,
        seed=seed,
        reference=comparison.reference,
        reference_score=None,
        candidate_score=None,
        difference=None,
    )


def _difference(pair: Pair) -> float:
    assert pair.difference is not None
    return pair.difference


def _mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
