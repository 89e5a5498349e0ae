"""The terms and the projection that a job's options ask for."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.learners.batch_steps import Retention
from perdure.learners.batches import Lesson
from perdure.learners.gradients import ExtraLoss
from perdure.learners.learning_job import LearningJob
from perdure.learners.options import LearnOptions
from perdure.learners.ranks.rank_bytes import memory_bytes
from perdure.learners.ranks.ranks import leads
from perdure.learners.retention.episodic_memory import episodic_memory
from perdure.learners.retention.ewc import ewc, fisher
from perdure.learners.retention.gradient_projection import gradient_projection
from perdure.learners.retention.lwf import lwf
from perdure.learners.retention.olora import olora
from perdure.learners.trainees.lora_weights import LoraWeights
from perdure.learners.trainees.trainee import Trainee


def retention_terms(job: LearningJob) -> Retention:
    """Extra losses and gradient projection, with the trainee at the job's start. EWC and GEM do nothing without old environments.

    Raises `InputError` if they need successes of the old environments and there are none.
    """
    options, trainee = job.options.retention, job.trainee
    memories = episodic_memory(job) if job.environments.old and (options.ewc or options.gem != "off") else []
    if leads(trainee.ranks):
        trainee.ranks.tell("retention", memory_bytes(memories))
    return terms_with(trainee, job.options, memories)


def terms_with(trainee: Trainee, options: LearnOptions, memories: Sequence[Sequence[Lesson]]) -> Retention:
    """The same, with stored successes of each old environment. Every rank of a job calls it."""
    own, temperature, budget_tokens = options.retention, options.common.temperature, options.tuning.budget_tokens
    losses: dict[str, ExtraLoss] = {}
    if own.ewc and memories:
        every = [lesson for memory in memories for lesson in memory]
        losses["ewc"] = ewc(trainee, fisher(trainee, every, temperature), own.ewc)
    if own.lwf:
        losses["lwf"] = lwf(own.lwf, temperature)
    if own.olora and isinstance(trainee.trained, LoraWeights) and trainee.trained.below:
        losses["olora"] = olora(trainee.trained, own.olora)
    if own.gem == "off" or not memories:
        return Retention(extra_losses=losses)
    projection = gradient_projection(memories, mean=own.gem == "a-gem", temperature=temperature, budget_tokens=budget_tokens)
    return Retention(extra_losses=losses, project_gradient=projection)
