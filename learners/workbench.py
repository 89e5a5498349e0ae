"""What every learner works with: how a batch of episodes is sampled with the current step, and how one update is made from lessons.

A learner is a loop that calls these two in its own order (`grpo.py`, `iterative_sft.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.rollout import Journal, Opponents, nobody, play
from perdure.envs.seeds import train_seed
from perdure.learners.batches import Lesson, completed, is_mixed
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.engines.tree import pack
from perdure.learners.losses import cross_entropy, kl_k2, policy_gradient
from perdure.learners.options import LearnOptions
from perdure.learners.trainee import Trainee
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import add_step
from perdure.memory.manifests import write_manifest
from perdure.memory.records import Episode, Lease, Purpose, StepRef, VersionRef
from perdure.memory.store import Store


class Interrupted(RuntimeFailure):
    """The job was asked to stop; it may be taken up again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The episodes of one round, by group."""

    target: list[list[Episode]]
    old: list[list[Episode]]
    spoilt: int
    """Episodes that did not complete, and so are no data."""
    seconds: float


@dataclass(slots=True, kw_only=True)
class Workbench:
    """One learning job at work. `step` counts the updates made so far."""

    store: Store
    lease: Lease
    journal: Journal
    engine: Engine
    trainee: Trainee
    options: LearnOptions
    targets: Sequence[Environment]
    old: Sequence[Environment]
    serving: VersionRef
    width: int
    stop: Callable[[], bool]
    opponents: Opponents = nobody
    step: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    """Diagnostics of the last update."""
    _drawn: int = 0
    _aimed: int = 0
    _replayed: int = 0
    """Groups so far: of all, of targets, of old environments. So each gets its turn where a batch is too small for all."""

    @property
    def sampler(self) -> StepRef:
        return StepRef(self.lease.subject, self.step)

    def start(self) -> None:
        """Make step 0 ready to sample."""
        self.engine.load(self.sampler, self.trainee.table())

    def sample(self, prompts: int) -> Sampled:
        """Play fresh groups with the current step: targets in turn, and for the replay share old environments in turn."""
        started = time.perf_counter()
        options = self.options
        episodes_old = round(prompts * options.samples * options.replay) if self.old else 0
        groups_old = round(episodes_old / options.replay_samples)
        groups_target = max(1, round((prompts * options.samples - episodes_old) / options.samples))
        plan: list[tuple[Environment, Purpose, int]] = [
            (self.targets[(self._aimed + k) % len(self.targets)], "learn", options.samples) for k in range(groups_target)
        ]
        self._aimed += groups_target
        plan += [(self.old[(self._replayed + k) % len(self.old)], "replay", options.replay_samples) for k in range(groups_old)]
        self._replayed += groups_old
        attempts = [attempt for environment, purpose, members in plan for attempt in self._group(environment, purpose, members)]
        episodes = play(
            attempts,
            self.engine.policy(self.sampler),
            self.engine.chat,
            self.sampler,
            self.journal,
            temperature=options.temperature,
            width=self.width,
            context_limit=self.engine.context_limit,
            stop=self.stop,
            opponents=self.opponents,
        )
        if self.stop():
            raise Interrupted(f"job {self.lease.subject} was stopped after {self.step} updates")
        groups: dict[str, list[Episode]] = {}
        for episode in episodes:
            groups.setdefault(episode.group, []).append(episode)
        return Sampled(
            target=completed(group for group in groups.values() if group[0].purpose == "learn"),
            old=completed(group for group in groups.values() if group[0].purpose == "replay"),
            spoilt=sum(episode.state != "completed" for episode in episodes),
            seconds=time.perf_counter() - started,
        )

    def update(self, lessons: Sequence[Lesson], sampled: Sampled, *, on_policy: bool) -> None:
        """One optimiser step on all lessons; the next step samples with the new weights. Without lessons the weights stay as they are.
        Raises `RuntimeFailure` where it diverged.

        Axes: A action tokens of a micro-batch.
        """
        started = time.perf_counter()
        options = self.options
        self.engine.rest()
        ids = sorted({episode.id for group in (*sampled.target, *sampled.old) for episode in group})
        if ids:
            write_manifest(self.store, self.lease, self.step + 1, ids, on_policy)
        batch_tokens = sum(len(lesson.action_ids) for lesson in lessons)
        ratios: list[torch.Tensor] = []
        kl_sum, kl_tokens = 0.0, 0
        for batch in pack([[*lesson.prompt_ids, *lesson.action_ids] for lesson in lessons], options.budget_tokens):
            part = [lessons[i] for i in batch]
            turns = [(lesson.prompt_ids, lesson.action_ids) for lesson in part]
            logp_A = self.trainee.action_logprobs(turns, options.temperature)
            sampler_logp_A = logp_A.new_tensor([logp for lesson in part for logp in lesson.sampler_logprobs])
            advantage_A = _per_token(part, [lesson.advantage for lesson in part], logp_A)
            imitation_A = _per_token(part, [lesson.imitation for lesson in part], logp_A)
            loss = policy_gradient(logp_A, sampler_logp_A, advantage_A, batch_tokens, options.ratio_cap)
            loss = loss + cross_entropy(logp_A, imitation_A, batch_tokens)
            if any(lesson.kl for lesson in part):
                assert isinstance(self.engine, TransformersEngine), "only this engine scores"
                serving_logp_A = self.engine.score(self.serving, turns, options.temperature)
                weight_A = _per_token(part, [lesson.kl for lesson in part], logp_A)
                loss = loss + kl_k2(logp_A, serving_logp_A, weight_A, batch_tokens)
                held_A = weight_A > 0
                kl_sum += float((0.5 * (logp_A.detach() - serving_logp_A)[held_A].square()).sum())
                kl_tokens += int(held_A.sum())
            loss.backward()
            ratios.append(logp_A.detach() - sampler_logp_A)
        lr = options.lr * (1 - self.step / options.updates)
        norm = self.trainee.step(lr, options.max_grad_norm) if lessons else 0.0
        if not math.isfinite(norm):
            raise RuntimeFailure(
                f"update {self.step + 1} of job {self.lease.subject} has diverged (gradient norm {norm}): learn with a smaller lr than "
                f"{options.lr}, or with smaller weights for KL and replay"
            )
        self.engine.unload(self.sampler)
        self.step += 1
        self.engine.load(self.sampler, self.trainee.table())
        self.last = {
            "update": self.step,
            **_about_groups(sampled),
            **_about_ratios(ratios),
            "tokens": batch_tokens,
            "kl_serving": kl_sum / kl_tokens if kl_tokens else None,
            "grad_norm": norm,
            "lr": lr,
            "sampling_s": round(sampled.seconds, 3),
            "seconds": round(sampled.seconds + time.perf_counter() - started, 3),
        }
        add_step(self.store, self.lease, self.step, self.last)

    def _group(self, environment: Environment, purpose: Purpose, members: int) -> list[Attempt]:
        seed = train_seed(self.options.seed, f"{environment.name} for job {self.lease.subject}", self._drawn)
        name = f"job-{self.lease.subject}.{self.lease.attempt}-{self._drawn}"
        self._drawn += 1
        return [
            Attempt(environment=environment, seed=seed, group=name, member=member, purpose=purpose, lease=self.lease)
            for member in range(members)
        ]


def _per_token(lessons: Sequence[Lesson], weights: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Each lesson's weight for each of its action tokens."""
    return like.new_tensor([weight for lesson, weight in zip(lessons, weights, strict=True) for _ in lesson.action_ids])


def _about_groups(sampled: Sampled) -> dict[str, Any]:
    episodes = [episode for group in sampled.target for episode in group]
    tokens = [logp for episode in episodes for turn in episode.turns for logp in turn.logprobs]
    return {
        "reward": _mean([episode.total_reward for episode in episodes]),
        "success": _mean([float(episode.success) for episode in episodes]),
        "old_success": _mean([float(episode.success) for group in sampled.old for episode in group]),
        "entropy": _mean([-logp for logp in tokens]),
        "groups": len(sampled.target),
        "dropped_groups": sum(not is_mixed(group) for group in sampled.target),
        "spoilt_episodes": sampled.spoilt,
    }


def _about_ratios(log_ratios: Sequence[torch.Tensor]) -> dict[str, Any]:
    """How far learner and sampler are apart: `mismatch_kl` is the k3 estimate of KL(sampler || learner), `ess` the effective sample size
    of the importance weights as a share of the tokens."""
    if not log_ratios:
        return {"ratio_mean": None, "ratio_max": None, "ess": None, "mismatch_kl": None}
    log_ratio_A = torch.cat(list(log_ratios)).double()
    ratio_A = log_ratio_A.exp()
    return {
        "ratio_mean": float(ratio_A.mean()),
        "ratio_max": float(ratio_A.max()),
        "ess": float(ratio_A.sum().square() / ratio_A.square().sum() / len(ratio_A)),
        "mismatch_kl": float((ratio_A - 1 - log_ratio_A).mean()),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
