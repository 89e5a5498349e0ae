"""Right answers in sight: below the task, for a model that is to find one and say it in its own words (STaR), or as the same task solved
before, for a teacher that is to expect it (SDFT).

The answer is the environment's own, by `oracle()`, all turns of it. What is learned from such an episode stands under the prompt without
it: as a conversation only grows, the first prompt is exchanged, and every token after it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perdure.envs.environment import Environment, Exchange
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.policy import Ids
from perdure.envs.rollout import opening
from perdure.envs.scripted import ScriptedEpisode, by_oracle, has_oracle, play_scripted
from perdure.learners.batches import Group, Lesson, Turns, lesson, turns_of
from perdure.learners.workbench import Workbench
from perdure.memory.errors import InputError
from perdure.memory.records import Episode

HINT = "\n\nA right answer is: {answer}\nAnswer as if you had not been told."
BETWEEN = " ; then: "
"""Between the answers of one turn and the next."""


def check_oracle(environment: Environment, option: str) -> None:
    """Raise `InputError` where an option needs an oracle that the environment does not have."""
    if not has_oracle(environment):
        raise InputError(
            f"{option} needs right answers, and {environment.name} has no oracle(): leave it out, or give demonstrations (demos)"
        )


def solved(environment: Environment, seed: int) -> ScriptedEpisode | None:
    """A task as its oracle plays it; None where the environment fails or the oracle does not win."""
    try:
        played = play_scripted(environment, seed, by_oracle)
    except EnvironmentFault:
        return None
    return played if played.success else None


def hinted(environment: Environment, actions: Sequence[str]) -> Environment:
    """The same environment with these answers in sight."""
    return replace(environment, template=environment.template + HINT.replace("{answer}", BETWEEN.join(actions)))


def demonstrated(environment: Environment, exchanges: Sequence[Exchange]) -> Environment:
    """The same environment after a conversation in which this very task was solved."""
    (observation, action), *rest = exchanges
    return replace(environment, examples=(*environment.examples, (environment.first_message(observation), action), *rest))


def under(turns: Turns, first_prompt: Ids) -> Turns:
    """The same answers under another first prompt."""
    before = len(turns[0][0])
    return tuple((first_prompt + prompt[before:], action) for prompt, action in turns)


def first_prompt(workbench: Workbench, environment: Environment, episode: Episode) -> Ids:
    """How an episode would have begun in this environment."""
    return workbench.engine.chat.prompt(opening(environment, episode.turns[0].observation))


def retried(workbench: Workbench, groups: Sequence[Group]) -> list[Lesson]:
    """Tasks of targets that no member won, tried again with the right answer in sight; what then succeeds, under the prompt without it."""
    failed = {(group[0].environment, group[0].seed) for group in groups if not any(episode.success for episode in group)}
    return own_words(workbench, sorted(failed))


def own_words(workbench: Workbench, tasks: Sequence[tuple[str, int]]) -> list[Lesson]:
    """Right answers to these tasks (environment, seed) in the present step's own words: at most one a task, as imitation lessons.

    Raises `InputError` where an environment has no oracle.
    """
    environments = {environment.name: environment for environment in workbench.targets}
    attempts = []
    for name, seed in tasks:
        played = solved(environments[name], seed)
        if played is not None:
            shown = hinted(environments[name], [action for _, action in played.exchanges])
            tries = workbench.group(shown, "hinted", workbench.options.samples)
            attempts += [replace(one, seed=seed) for one in tries]
    return without_hint(workbench, workbench.play(attempts).target)


def without_hint(workbench: Workbench, groups: Sequence[Group]) -> list[Lesson]:
    """Of groups that were played with the right answer in sight the first success of each task, under the prompt without it."""
    environments = {environment.name: environment for environment in workbench.targets}
    found: dict[tuple[str, int], Lesson] = {}
    for group in groups:
        for episode in group:
            task = episode.environment, episode.seed
            if episode.success and task not in found:
                plain = under(turns_of(episode), first_prompt(workbench, environments[episode.environment], episode))
                found[task] = replace(lesson(episode, imitation=1.0, kl=workbench.options.kl), turns=plain, sampler_logprobs=None)
    return list(found.values())
