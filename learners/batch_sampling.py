"""What a learning job plays: fresh groups of its targets and of old environments, with the current weights.

Targets take turns over the whole job, and `Progress` has their count; `retention/replay_choice.py` chooses among old environments.
Fractions of a group add up over updates. Every function here only chooses what to play, except `play_attempts`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.rollout import play
from perdure.envs.seeds import train_seed
from perdure.learners.batches import completed, is_mixed
from perdure.learners.learning_job import LearningJob, check_stop
from perdure.learners.retention.replay_choice import choose_replay, mean_tokens, replay_candidate
from perdure.memory.records import Episode, Purpose
from perdure.memory.trajectories.play_records import NOTHING_PLAYED, PlayRecord, record_before_job, records_of_job
from perdure.memory.trajectories.traces import episodes_of_step

MOST_AT_ONCE = 256
"""Episodes in play: a batch is played all at once, but each episode of an untrusted environment is a process."""
LIVE_EPISODES = 48
"""The newest of an environment, which say how it went before the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The episodes of one round, by group."""

    target: list[list[Episode]]
    old: list[list[Episode]]
    spoilt: int
    """Episodes that did not complete; they are not used."""
    staleness: float | None
    """How many updates the policy is behind that sampled the targets' episodes; None if no policy of this job did."""
    on_policy: bool = True
    """Whether the current weights sampled all of them."""

    def part(self, n: int, of: int) -> Sampled:
        """The n-th of `of` parts, for the n-th update from now. Environments were played in turn, so each part of neighbouring groups has
        all of them."""

        def cut(groups: list[list[Episode]]) -> list[list[Episode]]:
            return groups[len(groups) * n // of : len(groups) * (n + 1) // of]

        return Sampled(
            target=cut(self.target),
            old=cut(self.old),
            spoilt=self.spoilt if n == 0 else 0,
            staleness=None if self.staleness is None else self.staleness + n,
            on_policy=self.on_policy and n == 0,
        )


def sample(job: LearningJob, prompts: int) -> Sampled:
    """Play fresh groups for a batch of this many prompts: targets in turn, and old environments for the share of replay."""
    return play_attempts(job, [*target_attempts(job, target_groups(job, prompts)), *replay_attempts(job, prompts)])


def refilled(job: LearningJob, sampled: Sampled, prompts: int, times: int) -> Sampled:
    """The same, with new groups for those of equal rewards, up to `times` times (DAPO's dynamic sampling).

    Groups of equal rewards stay in the statistics.
    """
    for _ in range(times):
        lacking = target_groups(job, prompts) - sum(is_mixed(group) for group in sampled.target)
        if lacking > 0:
            more = play_attempts(job, target_attempts(job, lacking))
            sampled = replace(sampled, target=sampled.target + more.target, spoilt=sampled.spoilt + more.spoilt)
    return sampled


def sample_replay(job: LearningJob) -> Sampled:
    """Play the old environments of one update only."""
    return play_attempts(job, replay_attempts(job, job.options.common.prompts))


def sample_start(job: LearningJob, episodes: int) -> Sampled:
    """Groups with about this many episodes, played before the first update; a resumed job reads them from the store."""
    if job.progress.step == 0:
        return play_attempts(job, target_attempts(job, -(-episodes // job.options.common.samples)))
    return Sampled(target=played_by_start(job, hinted=False), old=[], spoilt=0, staleness=float(job.progress.step))


def played_by_start(job: LearningJob, *, hinted: bool) -> list[list[Episode]]:
    """Groups of targets from the store that the job played before its first update, with hints or without."""
    return completed(_groups(job.rewarder(episodes_of_step(job.run.store, job.id, 0, hinted=hinted))).values())


def play_episodes(job: LearningJob, attempts: Sequence[Attempt]) -> list[Episode]:
    """Play these attempts, if any, with the current weights. Raises `Interrupted`."""
    episodes = play(
        attempts,
        job.engine.policy(job.sampler),
        job.engine.chat,
        job.sampler,
        job.run.journal,
        temperature=job.options.common.temperature,
        width=MOST_AT_ONCE,
        context_limit=job.context_limit,
        stop=job.run.stop,
        each_round=job.run.each_round,
        opponents=job.environments.opponents,
    )
    check_stop(job)
    return episodes


def play_attempts(job: LearningJob, attempts: Sequence[Attempt]) -> Sampled:
    """The groups of these attempts, played for the next update. Raises `Interrupted`."""
    started = time.perf_counter()
    episodes = play_episodes(job, attempts)
    job.tally.sampling_s += time.perf_counter() - started
    job.tally.sampled_tokens += sum(len(turn.action_ids) for episode in episodes for turn in episode.turns)
    groups = _groups(job.rewarder(episodes)).values()
    return Sampled(
        target=completed(group for group in groups if group[0].purpose in ("learn", "hinted")),
        old=completed(group for group in groups if group[0].purpose == "replay"),
        spoilt=sum(episode.state != "completed" for episode in episodes),
        staleness=0.0,
    )


def target_groups(job: LearningJob, prompts: int) -> int:
    """How many groups of a batch are of targets."""
    return max(1, round(prompts * target_share(job)))


def target_share(job: LearningJob) -> float:
    """The share of a batch that is played on targets."""
    return 1 - job.options.replay.share if job.environments.old else 1.0


def target_attempts(job: LearningJob, groups: int) -> list[Attempt]:
    """Attempts at this many fresh tasks of the targets, in turn."""
    targets, begun = job.environments.targets, job.progress.target_groups
    job.progress.target_groups += groups
    chosen = [targets[n % len(targets)] for n in range(begun, begun + groups)]
    return [attempt for environment in chosen for attempt in fresh_group(job, environment, "learn", job.options.common.samples)]


def replay_attempts(job: LearningJob, prompts: int) -> list[Attempt]:
    """Attempts at fresh tasks of old environments for a batch of this many prompts, within the budgets of episodes and of tokens."""
    replay, old = job.options.replay, {environment.name: environment for environment in job.environments.old}
    groups = len(old_group_numbers(job, prompts, 1 - replay.stored))
    played = records_of_job(job.run.store, job.id, job.progress.step)
    candidates = [replay_candidate(name, _before(job, name), played.get(name, []), replay.samples) for name in old if groups]
    chosen = choose_replay(candidates, groups, replay.tokens * _target_tokens(job, prompts, played))
    return [attempt for name in chosen for attempt in fresh_group(job, old[name], "replay", replay.samples)]


def _before(job: LearningJob, environment: str) -> PlayRecord:
    """How live play of an environment went before the job."""
    return record_before_job(job.run.store, environment, job.id, LIVE_EPISODES)


def _target_tokens(job: LearningJob, prompts: int, played: Mapping[str, Sequence[PlayRecord]]) -> float:
    """Expected tokens of the targets' episodes in a batch of this many prompts; infinite if a target was never played."""
    targets = [environment.name for environment in job.environments.targets]
    each = [mean_tokens(sum(played.get(name, []), NOTHING_PLAYED) if name in played else _before(job, name), math.inf) for name in targets]
    return target_groups(job, prompts) * job.options.common.samples * statistics.fmean(each)


def old_group_numbers(job: LearningJob, prompts: int, share: float) -> range:
    """Which groups of old environments, numbered over the whole job, belong to this share of the replay for this many prompts.

    Fractions of a group add up over updates.
    """
    common, replay = job.options.common, job.options.replay
    each = common.samples * replay.share * share / replay.samples if job.environments.old else 0.0
    before = common.prompts * job.progress.step
    return range(math.floor(each * before + 0.5), math.floor(each * (before + prompts) + 0.5))


def fresh_group(job: LearningJob, environment: Environment, purpose: Purpose, members: int) -> list[Attempt]:
    """Attempts at one fresh task of an environment, as one group."""
    lease, n = job.run.lease, job.progress.groups
    job.progress.groups += 1
    seed, name = task_seed(job, environment, n), f"job-{job.id}.{lease.attempt}-{n}"
    return [
        Attempt(environment=environment, seed=seed, group=name, member=member, purpose=purpose, lease=lease) for member in range(members)
    ]


def task_seed(job: LearningJob, environment: Environment, n: int) -> int:
    """The seed of this job's n-th task of an environment."""
    return train_seed(job.options.common.seed, f"{environment.name} for job {job.id}", n)


def _groups(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    return groups
