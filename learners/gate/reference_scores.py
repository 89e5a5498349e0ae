"""What the references of a gate score, before its first pair: this decides which environments vote, and by which margins.

Two sources, neither of which knows the candidate, so that no test is touched by the choice: dev seeds, 16 more at each gate until 64 scores
are known, kept in the store; and what the references scored in gates that were closed before the candidate's first one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from perdure.envs.seeds import dev_seed
from perdure.learners.gate.player import Player, mean_score, play_scores
from perdure.memory import gates
from perdure.memory.evidence import past_pairs
from perdure.memory.evidence.dev_scores import KnownScores, keep_dev_scores, known_dev_scores
from perdure.memory.records import Lease
from perdure.memory.store import Store

SEEDS_AT_ONCE = 16
ENOUGH_SCORES = 64

Reference = tuple[str, str]
"""An environment, and a version that is compared with there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSource:
    """Where scores come from."""

    store: Store
    lease: Lease
    play: Player
    temperature: float
    """At which the player samples; scores at another one are not used."""
    root_seed: int


def known_scores(source: ScoreSource, references: Collection[Reference], candidate: str) -> dict[Reference, float]:
    """Mean scores of references, for a gate of `candidate`. An environment that fails too often has none.

    If the candidate's last gate was interrupted, only references without any score are played: the gate resumes with the scope that it had.
    """
    former = gates.gates_of(source.store, candidate)
    resumes = bool(former) and former[-1].result is None
    known = known_dev_scores(source.store, source.temperature)
    closed = past_pairs.scores_of_references(source.store, source.temperature, former[0].id if former else None)
    total = {reference: known.get(reference, KnownScores()) + closed.get(reference, KnownScores()) for reference in references}
    wanted = [reference for reference, scores in total.items() if scores.seeds < (1 if resumes else ENOUGH_SCORES)]
    for version in dict.fromkeys(version for _, version in wanted):
        names = [name for name, of in wanted if of == version]
        new = _play(source, version, {name: known.get((name, version), KnownScores()).seeds for name in names})
        for name, scores in new.items():
            known[name, version] = known.get((name, version), KnownScores()) + scores
            total[name, version] += scores
        keep_dev_scores(source.store, source.lease, source.temperature, {(name, version): known[name, version] for name in names})
    return {reference: scores.mean for reference, scores in total.items() if scores.mean is not None}


def _play(source: ScoreSource, version: str, played: dict[str, int]) -> dict[str, KnownScores]:
    """Play the next dev seeds of these environments, after those that were `played`, as one batch."""
    draws = [(name, dev_seed(source.root_seed, name, first + r)) for name, first in played.items() for r in range(SEEDS_AT_ONCE)]
    scores = dict.fromkeys(played, KnownScores())
    for (name, _), answers in zip(draws, play_scores(source.play, version, draws), strict=True):
        score = mean_score(answers)
        scores[name] += KnownScores(seeds=1, scored=int(score is not None), total=score or 0.0)
    return scores
