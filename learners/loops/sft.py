"""SFT on fixed demonstrations: the environment's own right answers, or a file of them. Off-policy and cheap, but it forgets fast.

`style=terse` imitates the answers as they are. With `style=styled` the start sees an answer as a hint, gives it in its own words, and
learns what the environment accepts. A file has one demonstration per line, in the form of solved examples (`envs/shots.py`), for one
target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perdure.envs.environment import Environment, Exchange
from perdure.envs.policy import Chat
from perdure.envs.rollout import conversation
from perdure.envs.shots import read_examples
from perdure.learners.batches import Lesson, Turns
from perdure.learners.epochs import imitation_epochs, target_tasks
from perdure.learners.learning_job import LearningJob, check_length
from perdure.learners.loops.hints import answers_in_own_words, check_oracle, solved, without_hint
from perdure.learners.loops.nothing_to_learn import nothing_to_learn
from perdure.learners.options import ORACLE, SftOptions
from perdure.learners.sampling.batch_sampling import played_by_start, task_seed
from perdure.memory.errors import InputError


def sft(job: LearningJob) -> None:
    """Imitate the demonstrations.

    Raises `InputError` if there is neither an oracle nor a readable file, `RuntimeFailure` if there is nothing to imitate.
    """
    lessons = demonstrations(job)
    if not lessons:
        raise nothing_to_learn(job, "no demonstration is right by its own rewards; see `perdure env check`, or set style=terse")
    imitation_epochs(job, lessons, job.options.of(SftOptions).epochs)


def demonstrations(job: LearningJob) -> list[Lesson]:
    """The lessons to imitate; the same after the job is resumed."""
    own, targets = job.options.of(SftOptions), job.environments.targets
    if own.demos != ORACLE:
        if own.style == "styled" or len(targets) != 1:
            raise InputError("demos=FILE has exact answers for one target: name one target, and leave style=styled out")
        shown = read_examples(targets[0].name, Path(own.demos))
        return [_lesson(job, f"demonstration {n}", targets[0], exchanges) for n, exchanges in enumerate(shown, start=1)]
    for target in targets:
        check_oracle(target, "demos=oracle")
    if own.style == "styled" and job.progress.step:
        return without_hint(job, played_by_start(job, hinted=True))
    turn = [targets[n % len(targets)] for n in range(target_tasks(job))]
    tasks = [(environment, task_seed(job, environment, n)) for n, environment in enumerate(turn)]
    if own.style == "styled":
        return answers_in_own_words(job, [(environment.name, seed) for environment, seed in tasks])
    answers = [(environment, solved(environment, seed)) for environment, seed in tasks]
    return [
        _lesson(job, f"a right answer to {environment.name}", environment, played.exchanges, played.instructions)
        for environment, played in answers
        if played is not None
    ]


def tokens_of(chat: Chat, environment: Environment, exchanges: Sequence[Exchange], instructions: str | None = None) -> Turns:
    """The token ids of a given conversation, as if it had been played; `instructions` are those of its task, if it has any."""
    turns: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for n, (observation, action) in enumerate(exchanges):
        if n and not chat.separate:
            prompt = chat.follow(*turns[-1], observation)
        else:
            prompt = chat.prompt(conversation(environment, exchanges[:n], observation, instructions))
        turns.append((prompt, chat.answer(action)))
    return tuple(turns)


def _lesson(
    job: LearningJob, what: str, environment: Environment, exchanges: Sequence[Exchange], instructions: str | None = None
) -> Lesson:
    turns = tokens_of(job.engine.chat, environment, exchanges, instructions)
    made = Lesson(episode=None, environment=environment.name, turns=turns, sampler_logprobs=None, imitation=1.0, kl=job.options.loss.kl)
    check_length(job, what, made.sequences)
    return made
