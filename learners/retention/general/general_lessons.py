"""General prompts as one more old environment, in which every answer is right: options `general` and `general_loss`.

Replay and KL hold the model where its environments are; what it can do elsewhere is lost unseen. Here it answers prompts of many kinds, and
the loss holds its answers. `kl`: the current weights answer, with the KL term to the serving version (on-policy; Lu and Thinking Machines
2025 restore an assistant so after other training). `base-answers`: the base model answers, and the cross-entropy on that is KL(base ||
learner) but for a constant, as in knowledge distillation (Hinton et al. 2015).

Answers are drawn for each update and end after 40 tokens. They are kept by no journal, because no environment rewards them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.envs.policy import Message, Policy, Request
from perdure.envs.seeds import train_seed
from perdure.learners.batches import GENERAL, Lesson
from perdure.learners.learning_job import LearningJob, check_stop
from perdure.learners.options import LearnOptions
from perdure.learners.retention.general.general_prompts import in_turn
from perdure.memory.records import VersionRef
from perdure.memory.versions import INITIAL

MOST_TOKENS = 40
"""Of an answer."""


def general_numbers(options: LearnOptions, step: int) -> range:
    """Which answers, numbered over the whole job, belong to the update after `step`: the share `general` of the episodes of replay.

    Fractions of an answer add up over updates.
    """
    each = options.common.prompts * options.common.samples * options.replay.share * options.general.share
    return range(math.floor(each * step + 0.5), math.floor(each * (step + 1) + 0.5))


def general_lessons(job: LearningJob) -> list[Lesson]:
    """Sample the answers of the next update and return their lessons; a prompt that does not fit into the context is left out.

    Raises `Interrupted`.
    """
    numbers, options = general_numbers(job.options, job.progress.step), job.options
    if not numbers:
        return []
    check_stop(job)
    started = time.perf_counter()
    requests = []
    for n, one in zip(numbers, in_turn(numbers, options.common.seed), strict=True):
        ids = job.engine.chat.prompt([Message(role="user", text=one.prompt)])
        if len(ids) + MOST_TOKENS <= job.context_limit:
            seed = train_seed(options.common.seed, f"{GENERAL} for job {job.id}", n)
            requests.append(Request(prompt_ids=ids, max_tokens=MOST_TOKENS, temperature=options.common.temperature, seed=seed))
    is_kl = options.general.loss == "kl"
    with _answering(job, is_kl) as policy:
        samples = policy.generate(requests) if requests else []
    job.tally.sampling_s += time.perf_counter() - started
    job.tally.sampled_tokens += sum(len(sample.action_ids) for sample in samples)
    return [
        Lesson(
            episode=None,
            environment=GENERAL,
            of_target=False,
            turns=((request.prompt_ids, sample.action_ids),),
            sampler_logprobs=sample.logprobs if is_kl else None,
            imitation=0.0 if is_kl else options.general.weight,
            kl=options.replay.kl if is_kl else 0.0,
        )
        for request, sample in zip(requests, samples, strict=True)
    ]


@contextmanager
def _answering(job: LearningJob, is_own: bool) -> Iterator[Policy]:
    """The policy of the current weights, or of the base model, which is loaded only as long as it answers unless it was before."""
    base, engine = VersionRef(INITIAL), job.engine
    if is_own or base in engine:
        yield engine.policy(job.sampler if is_own else base)
        return
    engine.load(base, {})
    try:
        yield engine.policy(base)
    finally:
        engine.unload(base)
