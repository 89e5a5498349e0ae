"""What a learning job learns from: groups of its targets and of old environments, most of them played with the current weights.

`batch_environments.py` says of which environments, and `live_batches.py` has those that were played before the job.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.rollout import play
from perdure.envs.seeds import train_seed
from perdure.learners.batches import completed, is_mixed
from perdure.learners.learning_job import LearningJob, check_stop
from perdure.learners.sampling.batch_environments import next_old, next_targets, target_groups
from perdure.learners.sampling.live_batches import is_of_start, is_on_policy, moves_behind, plays_fresh, take_live
from perdure.memory.records import Episode, Purpose
from perdure.memory.trajectories.traces import episodes_of_step

MOST_AT_ONCE = 256
"""Episodes in play: a batch is played all at once, but each episode of an untrusted environment is a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The episodes of one round, by group: played for it, or taken from live play."""

    target: list[list[Episode]]
    old: list[list[Episode]]
    spoilt: int
    """Episodes that did not complete; they are not used."""
    staleness: float | None
    """How many updates the policy is behind that sampled the targets' episodes; None if it was none of this job and not its start."""
    on_policy: bool = True
    """Whether the current weights sampled all of them."""
    data_staleness: float | None = None
    """With `from=live`: promotions and rollbacks since the versions served that played the targets' episodes, in the mean."""

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
            data_staleness=self.data_staleness,
        )


def sample(job: LearningJob, prompts: int) -> Sampled:
    """Groups for a batch of this many prompts: targets in turn, and old environments for the share of replay.

    They are taken from live play as the option `from` says; others are played. Raises `Interrupted`.
    """
    return _gathered(job, next_targets(job, target_groups(job, prompts)), next_old(job, prompts))


def refilled(job: LearningJob, sampled: Sampled, prompts: int, times: int) -> Sampled:
    """The same, with new groups for those of equal rewards, up to `times` times (DAPO's dynamic sampling).

    Groups of equal rewards stay in the statistics. Live play alone is not refilled: it would be used up sooner.
    """
    for _ in range(times if plays_fresh(job) else 0):
        lacking = target_groups(job, prompts) - sum(is_mixed(group) for group in sampled.target)
        if lacking > 0:
            more = _gathered(job, next_targets(job, lacking), [])
            sampled = replace(
                sampled,
                target=sampled.target + more.target,
                spoilt=sampled.spoilt + more.spoilt,
                on_policy=sampled.on_policy and more.on_policy,
            )
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


def _gathered(job: LearningJob, targets: Sequence[Environment], old: Sequence[Environment]) -> Sampled:
    """A group of each of these environments, in order: from live play as the option `from` says, else played, if the job plays at all."""
    options, started = job.options, time.perf_counter()
    groups: dict[str, list[Episode]] = {}
    attempts: list[Attempt] = []

    def named(environment: Environment, purpose: Purpose, members: int) -> str | None:
        """The name of a group that is in `groups`, or will be when the attempts are played."""
        live = take_live(job, environment.name, members)
        if live is not None:
            groups[live[0].group] = live
            return live[0].group
        fresh = fresh_group(job, environment, purpose, members) if plays_fresh(job) else []
        attempts.extend(fresh)
        return fresh[0].group if fresh else None

    names = (
        [named(environment, "learn", options.common.samples) for environment in targets],
        [named(environment, "replay", options.replay.samples) for environment in old],
    )
    job.tally.sampling_s += time.perf_counter() - started
    played = play_attempts(job, attempts)
    groups |= {group[0].group: group for group in (*played.target, *played.old)}
    target, others = ([groups[name] for name in side if name in groups] for side in names)
    sampled = replace(played, target=target, old=others, on_policy=is_on_policy(job, target + others))
    if plays_fresh(job):
        return sampled
    staleness = float(job.progress.step) if all(is_of_start(job, group) for group in target) else None
    return replace(sampled, staleness=staleness, data_staleness=moves_behind(job, target))


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


def target_attempts(job: LearningJob, groups: int) -> list[Attempt]:
    """Attempts at this many fresh tasks of the targets, in turn."""
    members = job.options.common.samples
    return [attempt for environment in next_targets(job, groups) for attempt in fresh_group(job, environment, "learn", members)]


def replay_attempts(job: LearningJob, prompts: int) -> list[Attempt]:
    """Attempts at fresh tasks of old environments for a batch of this many prompts."""
    members = job.options.replay.samples
    return [attempt for environment in next_old(job, prompts) for attempt in fresh_group(job, environment, "replay", members)]


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
