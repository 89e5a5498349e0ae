"""Prompts that contain a right answer: as a hint below the task (STaR), or as the same task solved before, for a teacher (SDFT).

The answer has all turns of the environment's `oracle()`. An episode with a hint is learned under the prompt without it: the first prompt is
replaced, and all later tokens stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perdure.envs.environment import Environment, Exchange
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.policy import Ids
from perdure.envs.rollout import conversation, opening
from perdure.envs.scripted import ScriptedEpisode, by_oracle, has_oracle, play_scripted
from perdure.learners.batches import Group, Lesson, Turns, lesson, turns_of
from perdure.learners.learning_job import LearningJob
from perdure.learners.sampling.batch_sampling import fresh_group, play_attempts
from perdure.memory.errors import InputError
from perdure.memory.records import Episode

HINT = "\n\nA right answer is: {answer}\nAnswer as if you had not been told."
BETWEEN = " ; then: "
"""Between the answers of two turns in a hint."""


def check_oracle(environment: Environment, option: str) -> None:
    """Raise `InputError` if the environment has no oracle, which this option needs."""
    if not has_oracle(environment):
        raise InputError(
            f"{option} needs right answers, but {environment.name} has no oracle(): leave it out, or give demonstrations (demos)"
        )


def solved(environment: Environment, seed: int) -> ScriptedEpisode | None:
    """The task played by the oracle; None if the environment fails or the oracle does not succeed."""
    try:
        played = play_scripted(environment, seed, by_oracle)
    except EnvironmentFault:
        return None
    return played if played.success else None


def hinted(environment: Environment, actions: Sequence[str]) -> Environment:
    """The same environment with these answers as a hint."""
    return replace(environment, template=environment.template + HINT.replace("{answer}", BETWEEN.join(actions)))


def demonstrated(environment: Environment, exchanges: Sequence[Exchange]) -> Environment:
    """The same environment after a conversation in which the same task was solved."""
    (observation, action), *rest = exchanges
    return replace(environment, examples=(*environment.examples, (environment.first_message(observation), action), *rest))


def with_prompt(turns: Turns, first_prompt: Ids) -> Turns:
    """The same answers after another first prompt."""
    before = len(turns[0][0])
    return tuple((first_prompt + prompt[before:], action) for prompt, action in turns)


def retold(job: LearningJob, environment: Environment, episode: Episode) -> Turns:
    """The answers of an episode, each after the prompt that it would have in this environment."""
    chat = job.engine.chat
    if not chat.separate:
        return with_prompt(turns_of(episode), first_prompt(job, environment, episode))
    said = [(turn.observation, turn.action) for turn in episode.turns]
    return tuple(
        (chat.prompt(conversation(environment, said[:n], turn.observation, episode.instructions)), turn.action_ids)
        for n, turn in enumerate(episode.turns)
    )


def first_prompt(job: LearningJob, environment: Environment, episode: Episode) -> Ids:
    """The first prompt of an episode if it were played in this environment."""
    return job.engine.chat.prompt(opening(environment, episode.turns[0].observation, episode.instructions))


def retry_with_hints(job: LearningJob, groups: Sequence[Group]) -> list[Lesson]:
    """Retry the tasks that no member solved, with a hint; returns lessons from the successes, under the prompt without the hint."""
    failed = {(group[0].environment, group[0].seed) for group in groups if not any(episode.success for episode in group)}
    return answers_in_own_words(job, sorted(failed))


def answers_in_own_words(job: LearningJob, tasks: Sequence[tuple[str, int]]) -> list[Lesson]:
    """Play these tasks (environment, seed) with hints; returns an imitation lesson from the first success of each task.

    Raises `InputError` if an environment has no oracle.
    """
    environments = {environment.name: environment for environment in job.environments.targets}
    attempts = []
    for name, seed in tasks:
        played = solved(environments[name], seed)
        if played is not None:
            shown = hinted(environments[name], [action for _, action in played.exchanges])
            tries = fresh_group(job, shown, "hinted", job.options.common.samples)
            attempts += [replace(attempt, seed=seed) for attempt in tries]
    return without_hint(job, play_attempts(job, attempts).target)


def without_hint(job: LearningJob, groups: Sequence[Group]) -> list[Lesson]:
    """An imitation lesson from the first success of each task, under the prompt without the hint."""
    environments = {environment.name: environment for environment in job.environments.targets}
    lessons: dict[tuple[str, int], Lesson] = {}
    for group in groups:
        for episode in group:
            task = episode.environment, episode.seed
            if episode.success and task not in lessons:
                plain = retold(job, environments[episode.environment], episode)
                lessons[task] = replace(lesson(episode, imitation=1.0, kl=job.options.loss.kl), turns=plain, sampler_logprobs=None)
    return list(lessons.values())
