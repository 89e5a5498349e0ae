"""The loss of a self-distillation: the student follows the teacher's distribution at each token of its own answers (Shenfeld et al. 2026).

`loops/sdft.py` chooses the lessons. The teacher is one of the trainee's references.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from perdure.learners.batches import Lesson, Turns
from perdure.learners.gradients import ExtraLoss, MicroBatch
from perdure.learners.options import LearnOptions, SdftOptions


def distillation(taught: Mapping[Lesson, Turns], options: LearnOptions) -> ExtraLoss:
    """Mean KL between student and teacher over the action tokens of the batch, by their weights."""
    temperature, direction = options.common.temperature, options.of(SdftOptions).direction

    def loss(batch: MicroBatch) -> Tensor:
        is_student = [student in taught for student in batch.lessons]
        students = [student for student in batch.lessons if student in taught]
        if not students and not batch.trainee.in_step:  # ranks that compute in step ask the teacher together
            return batch.policy.hidden_KC.new_zeros(())
        trainee, student_A = batch.trainee, batch.per_token(map(float, is_student)).bool()
        teacher = trainee.predict(trainee.tree([turn for student in students for turn in taught[student]]), "teacher")
        student_AC, teacher_AC = batch.policy.hidden_AC[: batch.tokens][student_A], teacher.hidden_AC
        first, second = (student_AC, teacher_AC) if direction == "reverse" else (teacher_AC, student_AC)
        kl_A = batch.policy.head.divergence(first, second, temperature)
        return (batch.per_token(batch.weights)[student_A] * kl_A).sum()

    return loss
