"""Which environments the groups of a batch are of.

Targets take turns over the whole job, and `Progress` has their count; `retention/replay_choice.py` chooses among old environments.
Fractions of a group add up over updates. Every function here only chooses, and plays nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from perdure.envs.environment import Environment
from perdure.learners.learning_job import LearningJob
from perdure.learners.options import LearnOptions
from perdure.learners.retention.replay_choice import ReplayCandidate, choose_replay, mean_tokens, replay_candidate
from perdure.learners.sampling.live_batches import live_supply, plays_fresh
from perdure.memory.trajectories.play_records import NOTHING_PLAYED, PlayRecord, record_before_job, records_of_job

LIVE_EPISODES = 48
"""The newest of an environment, which say how it went before the job."""


def target_groups(job: LearningJob, prompts: int) -> int:
    """How many groups of a batch are of targets."""
    return groups_of_targets(job.options, prompts, with_old=bool(job.environments.old))


def groups_of_targets(options: LearnOptions, prompts: int, *, with_old: bool) -> int:
    """The same before there is a job; `with_old` says whether there are old environments."""
    return max(1, round(prompts * share_of_targets(options, with_old=with_old)))


def share_of_targets(options: LearnOptions, *, with_old: bool) -> float:
    """The share of a batch that is of targets."""
    return 1 - options.replay.share if with_old else 1.0


def next_targets(job: LearningJob, groups: int) -> list[Environment]:
    """The targets of the next groups, in turn."""
    targets, begun = job.environments.targets, job.progress.target_groups
    job.progress.target_groups += groups
    return [targets[n % len(targets)] for n in range(begun, begun + groups)]


def next_old(job: LearningJob, prompts: int) -> list[Environment]:
    """The old environments of the groups in a batch of this many prompts, within the budgets of episodes and of tokens."""
    replay, old = job.options.replay, {environment.name: environment for environment in job.environments.old}
    groups = len(old_group_numbers(job, prompts, 1 - replay.stored))
    if not groups:
        return []
    played = records_of_job(job.run.store, job.id, job.progress.step)
    if plays_fresh(job):
        candidates = [replay_candidate(name, _before(job, name), played.get(name, []), replay.samples) for name in old]
    else:
        candidates = _live_candidates(job)
    tokens = replay.tokens * (1 - job.options.general.share) * _target_tokens(job, prompts, played)
    return [old[name] for name in choose_replay(candidates, groups, tokens)]


def old_group_numbers(job: LearningJob, prompts: int, share: float) -> range:
    """Which groups of old environments, numbered over the whole job, belong to this share of the replay for this many prompts.

    Fractions of a group add up over updates.
    """
    common, replay = job.options.common, job.options.replay
    of_old = replay.share * (1 - job.options.general.share)  # the rest of replay is general prompts
    each = common.samples * of_old * share / replay.samples if job.environments.old else 0.0
    before = common.prompts * job.progress.step
    return range(math.floor(each * before + 0.5), math.floor(each * (before + prompts) + 0.5))


def _live_candidates(job: LearningJob) -> list[ReplayCandidate]:
    """Old environments that have live groups left. Live play is older than the job, so it cannot show a fall in it."""
    supply, members = live_supply(job), job.options.replay.samples
    return [
        ReplayCandidate(
            name=environment.name,
            groups=supply.taken[environment.name],
            group_tokens=members * mean_tokens(_before(job, environment.name), 0.0),
            fall=0.0,
        )
        for environment in job.environments.old
        if supply.left.get(environment.name)
    ]


def _before(job: LearningJob, environment: str) -> PlayRecord:
    """How live play of an environment went before the job."""
    return record_before_job(job.run.store, environment, job.id, LIVE_EPISODES)


def _target_tokens(job: LearningJob, prompts: int, played: Mapping[str, Sequence[PlayRecord]]) -> float:
    """Expected tokens of the targets' episodes in a batch of this many prompts; infinite if a target was never played."""
    targets = [environment.name for environment in job.environments.targets]
    each = [mean_tokens(sum(played.get(name, []), NOTHING_PLAYED) if name in played else _before(job, name), math.inf) for name in targets]
    return target_groups(job, prompts) * job.options.common.samples * statistics.fmean(each)
