"""Groups of live play that a job learns from in place of fresh ones (option `from`).

With `both`, the newest groups of the version that the job starts from are its first batch, of targets and of old environments. They are
on-policy: no update was made yet. What is lacking is played. With `live`, every batch is live play, newest first, and the job ends when
that of its targets is used up. Older versions played some of it: their log-probs are stored, and the importance ratio of learner to
sampler corrects for them as for any other sampler (`losses.py:truncated_ratio`). With `fresh` nothing is taken.

Groups are taken by age alone, whatever their rewards: to pick those with a signal would bias the gradient and the rates. A group counts
as on-policy once: `both` leaves out those that were another job's on-policy batch, so that a second job from the same version has new
data; `live` takes them again, off-policy. The choice is made before the job plays anything, and its checkpoint keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.envs.seeds import split_of
from perdure.learners.batches import Group, completed, sequences_of, turns_of
from perdure.learners.learning_job import LearningJob, LiveSupply, fits
from perdure.learners.options import IterativeSftOptions, LearnOptions, SamplingOptions, Source
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import Episode, VersionRef
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import episodes_by_id
from perdure.memory.trajectories.live_play import LiveGroup, live_groups, moves_since, taken_groups
from perdure.memory.trajectories.manifests import learned_elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveChoice:
    """What a job takes from live play."""

    episodes: tuple[int, ...]
    """Their ids."""
    updates: int
    """That the job makes: fewer than the option if live play does not suffice for more."""


def choose_live(
    store: Store, job: int, start: str, options: LearnOptions, *, targets: Sequence[str], old: Sequence[str], target_groups: int
) -> LiveChoice:
    """Choose the live groups of a job that starts from the version `start`; `target_groups` are those of the targets in one batch.

    Raises `RuntimeFailure` if the job learns from live play alone and there is none of its targets.
    """
    source, common = _source(options), options.common
    if source == "fresh":
        return LiveChoice(episodes=(), updates=common.updates)
    most = _most_groups(options)
    found = {name: _eligible(store, job, start, options, name)[:most] for name in (*targets, *old)}
    episodes = tuple(episode for groups in found.values() for group in groups for episode in group.episodes)
    if source == "both":
        return LiveChoice(episodes=episodes, updates=common.updates)
    places = [(len(found[name]) - 1) * len(targets) + n for n, name in enumerate(targets) if found[name]]  # of the last group of each
    if not places:
        raise RuntimeFailure(
            f"nothing to learn from in {', '.join(targets)}: no live task was played at temperature {common.temperature} at most "
            f"{options.retention.staleness} promotions and rollbacks ago; let it be played first, or learn with from=both"
        )
    return LiveChoice(episodes=episodes, updates=min(common.updates, max(places) // target_groups + 1))


def takes_live(job: LearningJob) -> bool:
    """Whether the current batch takes live groups if there are any."""
    source = _source(job.options)
    return source == "live" or (source == "both" and job.progress.step == 0)


def plays_fresh(job: LearningJob) -> bool:
    """Whether the job plays groups to learn from."""
    return _source(job.options) != "live"


def take_live(job: LearningJob, environment: str, members: int) -> list[Episode] | None:
    """The next live group of an environment, at most this many members of it; None if none is left.

    A group with an episode that is too long for the learner is passed over.
    """
    left = live_supply(job).left.get(environment, []) if takes_live(job) else []
    while left:
        ids = left.pop(0)
        live_supply(job).taken[environment] += 1
        by_id = {episode.id: episode for episode in episodes_by_id(job.run.store, ids[:members])}
        for group in completed([job.rewarder([by_id[id_] for id_ in ids[:members] if id_ in by_id])]):
            if all(fits(job, sequences_of(turns_of(episode))) for episode in group):
                return group
    return None


def live_supply(job: LearningJob) -> LiveSupply:
    """The groups that the job chose and has not learned from yet, newest first. Read once; then `take_live` takes from it."""
    if job.tally.live_supply is None:
        chosen = taken_groups(job.run.store, job.id, job.progress.step, job.progress.chosen) if takes_live(job) else []
        supply = LiveSupply()
        for group in chosen:
            supply.left.setdefault(group.environment, [])
            supply.taken.setdefault(group.environment, 0)
            if group.is_used:
                supply.taken[group.environment] += 1
            else:
                supply.left[group.environment].append(group.episodes)
        job.tally.live_supply = supply
    return job.tally.live_supply


def is_of_start(job: LearningJob, group: Group) -> bool:
    """Whether the version that the job starts from played a group, or the job itself."""
    return group[0].purpose != "live" or all(turn.sampler == VersionRef(job.progress.start) for episode in group for turn in episode.turns)


def is_on_policy(job: LearningJob, groups: Sequence[Group]) -> bool:
    """Whether the current weights sampled all of these groups, and no other job has learned from them as such."""
    live = [group for group in groups if group[0].purpose == "live"]
    if not live:
        return True
    ids = [episode.id for group in live for episode in group]
    return job.progress.step == 0 and all(is_of_start(job, group) for group in live) and not learned_elsewhere(job.run.store, job.id, ids)


def moves_behind(job: LearningJob, groups: Sequence[Group]) -> float | None:
    """Promotions and rollbacks since the versions served that played these live groups, in the mean; None without any."""
    samplers = [str(group[0].turns[0].sampler) for group in groups if group[0].purpose == "live"]
    moves = {name: moves_since(job.run.store, name) for name in set(samplers)}
    return sum(moves[name] for name in samplers) / len(samplers) if samplers else None


def used_up(job: LearningJob) -> str | None:
    """Why the job made fewer updates than its option says, if live play was too little for more; otherwise None."""
    wanted, made = job.options.common.updates, job.progress.updates
    if plays_fresh(job) or made >= wanted:
        return None
    return f"the live play of {job.environments.names} was used up after {made} of {wanted} updates (from=live)"


def _source(options: LearnOptions) -> Source:
    return options.own.source if isinstance(options.own, SamplingOptions) else "fresh"


def _eligible(store: Store, job: int, start: str, options: LearnOptions, environment: str) -> list[LiveGroup]:
    groups = live_groups(store, environment, job=job, temperature=options.common.temperature)
    groups = [group for group in groups if split_of(group.seed) == "train"]
    if _source(options) == "both":
        return [group for group in groups if group.version == start and not group.is_learned]
    return [group for group in groups if group.moves <= options.retention.staleness]


def _most_groups(options: LearnOptions) -> int:
    """The most groups of one environment that a job can use: those of all batches that are taken from live play, with refills."""
    common, own = options.common, options.own
    if _source(options) == "live":
        batches = common.updates
    else:
        batches = own.round_at(0, common.updates)[1] if isinstance(own, IterativeSftOptions) else 1
    return batches * common.prompts * max(2, common.samples // options.replay.samples)
