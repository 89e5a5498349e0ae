"""What jobs came to: updates, evidence, and the result of each kind of job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.records import Decision, Role

LegState = Literal["passed", "failed", "not shown", "vacuous", "not asked"]
"""`failed`: at or under the futility bound. `not shown`: neither that nor enough when the gate ended, which does not promote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStats:
    """How the episodes of one update went. None: no data."""

    reward: float | None = None
    """Mean return of the targets' episodes."""
    success: float | None = None
    old_success: float | None = None
    """The same of the replayed old environments."""
    entropy: float | None = None
    """Mean of -logprob over the sampled tokens, in nats."""
    groups: int = 0
    """Of the targets."""
    dropped_groups: int = 0
    """Those whose episodes had equal rewards."""
    spoilt_episodes: int = 0
    """Not completed, and so no data."""
    live_groups: int = 0
    """Of targets and old environments: read from live play, not played for this update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioStats:
    """How far learner and sampler are apart, over the action tokens of one update."""

    ratio_mean: float | None = None
    ratio_max: float | None = None
    ess: float | None = None
    """Effective sample size of the importance weights, as a share of the tokens."""
    mismatch_kl: float | None = None
    """k3 estimate of KL(sampler || learner), in nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """KL(present weights || reference) in nats per token, on episodes of the targets (new) and of old environments."""

    kl_base_new: float | None = None
    kl_base_old: float | None = None
    kl_serving_new: float | None = None
    kl_serving_old: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one update of a learning job measured and took. None: no data."""

    update: int
    """Its number in the job, from 1."""
    groups: GroupStats = field(default_factory=GroupStats)
    ratios: RatioStats = field(default_factory=RatioStats)
    drift: Drift = field(default_factory=Drift)
    staleness: float | None = None
    """Updates that the sampling policy is behind."""
    nll: float | None = None
    """Mean negative log-likelihood of what is imitated."""
    kl_loss: float | None = None
    extra_losses: Mapping[str, float] = field(default_factory=dict)
    """Further terms of the loss by name: ewc, lwf, olora, distillation."""
    tokens: int = 0
    """Action tokens learned from."""
    sampled_tokens: int = 0
    grad_norm: float | None = None
    lr: float | None = None
    sampling_s: float = 0.0
    learning_s: float = 0.0
    lessons: int | None = None
    """Of a learner on fixed data: how many there are in all."""
    data_staleness: float | None = None
    """Of a learner on stored episodes: how far behind the policies were that played them, in the mean."""

    @property
    def seconds(self) -> float:
        return self.sampling_s + self.learning_s

    @property
    def tokens_per_s(self) -> float | None:
        return (self.sampled_tokens + self.tokens) / self.seconds if self.seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a learning job took in all."""

    updates: int
    sampled_tokens: int
    learned_tokens: int
    sampling_s: float
    learning_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One test of a gate. The numbers are None if it was not played."""

    state: LegState
    role: Role | None = None
    reference: str | None = None
    """The version compared with."""
    margin: float | None = None
    n: int = 0
    """Pairs."""
    wins: int = 0
    losses: int = 0
    mean_difference: float | None = None
    interval: tuple[float, float] | None = None
    """Of the mean difference: a time-uniform confidence interval, valid at the moment the gate stopped."""
    wealth: float | None = None
    """The e-value."""
    need: float | None = None
    """What the e-value had to reach."""
    anchor_wealth: float | None = None
    """The e-value that the candidate beats its anchor; None if the reference is no anchor."""
    note: str | None = None
    reference_score: float | None = None
    candidate_score: float | None = None
    """Mean scores over the pairs. A failed candidate scores 0 here; in the test it counts as -1."""
    candidate_failures: int = 0
    voids: int = 0
    """Draws on which the environment failed on the reference's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Every test of a gate."""

    environments: Mapping[str, Leg]
    """Whether each held: the earlier ones, and trained ones against their anchor."""
    pooled: Leg | None
    """None if fewer than two earlier environments vote."""
    gain: Leg
    """Over the trained environments together."""
    trained: Mapping[str, Leg]
    """Each trained environment by itself, which need not pass alone."""
    interval: str
    """What kind of intervals these are."""
    regressed: tuple[str, ...] = ()
    """After a rejection: the environments that fell, by e-BH at a false discovery rate of .10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What a gate came to."""

    gate: int
    candidate: str
    serving: str
    """The version that served when the gate started."""
    profile: str
    """Whose margins were in force."""
    verdict: Decision
    reason: str
    rounds: int
    evidence: Evidence
    continued_pairs: int
    """Stored pairs of earlier gates of this candidate that were taken up again."""
    candidate_episodes: int
    anchor_episodes: int
    """Episodes played now, by the candidate and by all references."""
    alpha: float = 0.05
    """The largest probability of a false promotion."""
    samples: int = 1
    """Answers to each seed on each side."""
    temperature: float = 0.0
    """At which they were sampled; 0 is greedy."""
    new_anchors: tuple[str, ...] = ()
    """Environments in which the candidate beat its anchor clearly, and becomes the anchor if it is promoted."""
    panel: PanelResult | None = None
    """The candidate on the capability panel; None if the gate did not look at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTerms:
    """What is fixed before the first pair of a gate."""

    scope: str
    """Who is judged how, as JSON text that only the gate itself reads."""
    nmax: int
    """Rounds at most."""
    seeds_of: int | None
    """The earlier gate whose seeds are played again, if that one was cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScore:
    """Mean score of one step in one environment, sampled on dev seeds."""

    score: float | None
    """In [0, 1]; None if no episode could be scored."""
    episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScores:
    """One check of a learning job, by environment."""

    step: int
    """Updates made so far; 0 is the start."""
    targets: Mapping[str, StepScore]
    old: Mapping[str, StepScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which step of a learning job became the candidate."""

    step: int
    reason: str
    ended_early: str | None = None
    """Why the job made fewer updates than it was to make; None if it made all."""
    checks: tuple[StepScores, ...] = ()
    """In order, the start first; empty if the job had none, and its last step is the candidate."""
    share: float = 1.0
    """Of the way from the serving version to the weights of that step: less than 1 if the capability panel did not hold at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnResult:
    """What a learning job came to."""

    version: str
    """The candidate."""
    verdict: Decision | None
    """None if it was not gated."""
    reason: str
    diagnostics: Update | None
    """Of the last update."""
    selection: Selection
    cost: Cost
    gate: GateResult | None
    learn_s: float
    gate_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """Mean score of a version in one environment, with a 95 % interval."""

    score: float | None
    """None if no episode could be scored."""
    low: float
    high: float
    episodes: int
    """Seeds that got a score."""
    failed: int
    """Seeds that got none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe job came to."""

    version: str
    environments: Mapping[str, ProbeScore]
    temperature: float = 0.0
    """At which answers were sampled; 0 is greedy."""
    samples: int = 1
    """Answers to each seed; the score of a seed is their mean."""


Result = LearnResult | GateResult | ProbeResult | PanelResult
