"""The terms and the projection that a job's options ask for."""

from __future__ import annotations

from perdure.learners.gradients import ExtraLoss
from perdure.learners.learning_job import LearningJob, Retention
from perdure.learners.retention.episodic_memory import episodic_memory
from perdure.learners.retention.ewc import ewc, fisher
from perdure.learners.retention.gradient_projection import gradient_projection
from perdure.learners.retention.lwf import lwf
from perdure.learners.retention.olora import olora
from perdure.learners.trainees.lora_weights import LoraWeights


def retention_terms(job: LearningJob) -> Retention:
    """Extra losses and gradient projection, with the trainee at the job's start. EWC and GEM do nothing without old environments.

    Raises `InputError` if they need successes of the old environments and there are none.
    """
    options, trainee = job.options.retention, job.trainee
    temperature, budget_tokens = job.options.common.temperature, job.options.tuning.budget_tokens
    losses: dict[str, ExtraLoss] = {}
    memories = episodic_memory(job) if job.environments.old and (options.ewc or options.gem != "off") else []
    if options.ewc and memories:
        every = [lesson for memory in memories for lesson in memory]
        losses["ewc"] = ewc(trainee, fisher(trainee, every, temperature), options.ewc)
    if options.lwf:
        losses["lwf"] = lwf(options.lwf, temperature)
    if options.olora and isinstance(trainee.trained, LoraWeights) and trainee.trained.below:
        losses["olora"] = olora(trainee.trained, options.olora)
    if options.gem == "off" or not memories:
        return Retention(extra_losses=losses)
    projection = gradient_projection(memories, mean=options.gem == "a-gem", temperature=temperature, budget_tokens=budget_tokens)
    return Retention(extra_losses=losses, project_gradient=projection)
