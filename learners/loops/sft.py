"""SFT on fixed demonstrations: the environment's own right answers, or a file of them. Off-policy and cheap, but it forgets fast.

`style=terse` imitates the answers as they are. With `style=styled` the start sees an answer as a hint, gives it in its own words, and
learns what the environment accepts. A file has one demonstration per line, in the form of solved examples (`envs/shots.py`), for one
target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from perdure.envs.environment import Environment, Exchange
from perdure.envs.policy import Chat
from perdure.envs.rollout import opening
from perdure.envs.shots import read_examples
from perdure.learners.batches import Lesson, Turns
from perdure.learners.epochs import imitation_epochs, target_tasks
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.loops.hints import answers_in_own_words, check_oracle, solved, without_hint
from perdure.learners.options import ORACLE
from perdure.learners.workbench import NO_EXTRA_LOSSES, Workbench
from perdure.memory.errors import InputError, RuntimeFailure


def sft(
    workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES, project_gradient: ProjectGradient | None = None
) -> None:
    """Imitate the demonstrations.

    Raises `InputError` if there is neither an oracle nor a readable file, `RuntimeFailure` if there is nothing to imitate.
    """
    lessons = demonstrations(workbench)
    if not lessons:
        raise RuntimeFailure(
            f"nothing to learn from in {workbench.names}: no demonstration is right by its own rewards; see `perdure env check`, or set "
            "style=terse"
        )
    imitation_epochs(workbench, lessons, extra_losses, project_gradient)


def demonstrations(workbench: Workbench) -> list[Lesson]:
    """The lessons to imitate; the same after the job is resumed."""
    options = workbench.options
    if options.demos != ORACLE:
        if options.style == "styled" or len(workbench.targets) != 1:
            raise InputError("demos=FILE has exact answers for one target: name one target, and leave style=styled out")
        target = workbench.targets[0]
        shown = read_examples(target.name, Path(options.demos))
        return [_lesson(workbench, f"demonstration {n}", target, exchanges) for n, exchanges in enumerate(shown, start=1)]
    for target in workbench.targets:
        check_oracle(target, "demos=oracle")
    if options.style == "styled" and workbench.step:
        return without_hint(workbench, workbench.played_by_start(hinted=True))
    turn = [workbench.targets[n % len(workbench.targets)] for n in range(target_tasks(workbench))]
    tasks = [(environment, workbench.task(environment, n)) for n, environment in enumerate(turn)]
    if options.style == "styled":
        return answers_in_own_words(workbench, [(environment.name, seed) for environment, seed in tasks])
    answers = [(environment, solved(environment, seed)) for environment, seed in tasks]
    return [
        _lesson(workbench, f"a right answer to {environment.name}", environment, played.exchanges)
        for environment, played in answers
        if played is not None
    ]


def tokens_of(chat: Chat, environment: Environment, exchanges: Sequence[Exchange]) -> Turns:
    """The token ids of a given conversation, as if it had been played."""
    turns: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for n, (observation, action) in enumerate(exchanges):
        prompt = chat.follow(*turns[-1], observation) if n else chat.prompt(opening(environment, observation))
        turns.append((prompt, chat.answer(action)))
    return tuple(turns)


def _lesson(workbench: Workbench, what: str, environment: Environment, exchanges: Sequence[Exchange]) -> Lesson:
    turns = tokens_of(workbench.engine.chat, environment, exchanges)
    made = Lesson(episode=None, environment=environment.name, turns=turns, sampler_logprobs=None, imitation=1.0, kl=workbench.options.kl)
    workbench.check_length(what, made.sequences)
    return made
