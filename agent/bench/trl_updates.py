"""One side of `perdure bench learner`: updates of TRL's `GRPOTrainer` on the tasks that Perdure played, in the same order.

With TRL's Dr. GRPO loss, without KL or vLLM, one `generate` for the whole batch, micro-batches of a group, and without recomputing
activations. In float32 it has `bf16=False` and a model in float32. In bfloat16 it has `bf16=True` and a model in bfloat16; its adapter is
in float32, as PEFT makes it. TRL's own default is `bf16=True` on a model in float32, whose weights every product casts: on two cores of a
CPU that took 7 % more CPU time and 20 % more memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from perdure.agent.bench.bench_tasks import one_turn
from perdure.agent.bench.learner_sides import LearnerSide, SideSpec, peak_bytes
from perdure.envs.environment import Environment
from perdure.envs.registry import load
from perdure.envs.rollout import opening
from perdure.envs.scripted import fixed, play_scripted
from perdure.learners.option_parsing import parse_options


def run_trl(spec: SideSpec, made: Callable[[int], None]) -> LearnerSide:
    """Measure TRL; calls `made` with the number of updates after each."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    batch = spec.batch
    environment = one_turn(load(batch.environment), batch.max_tokens, is_hashed=spec.work == "equal work")
    options = parse_options("grpo", {})
    tokens: list[int] = []
    ends: list[float] = []

    def rewards(prompts: Any, completions: Any, completion_ids: Any, seed: Any, **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        texts = [completion[0]["content"] for completion in completions]
        return [play_scripted(environment, task_seed, fixed(text)).total_reward for task_seed, text in zip(seed, texts, strict=True)]

    class Watch(TrainerCallback):
        def on_step_end(self, *arguments: Any, **given: Any) -> None:
            ends.append(time.perf_counter())
            made(len(ends))

    conversations = [_conversation(environment, seed) for seed in spec.seeds]
    with tempfile.TemporaryDirectory() as scratch:
        settings = GRPOConfig(
            output_dir=scratch,
            model_init_kwargs={"dtype": spec.dtype},
            bf16=spec.dtype == "bfloat16",
            use_cpu=spec.device == "cpu",
            loss_type="dr_grpo",
            scale_rewards="none",
            beta=0.0,
            num_generations=batch.samples,
            per_device_train_batch_size=batch.samples,
            gradient_accumulation_steps=batch.prompts,
            gradient_checkpointing=False,
            max_completion_length=batch.max_tokens,
            generation_kwargs={"min_new_tokens": batch.max_tokens} if spec.work == "equal work" else None,
            temperature=options.common.temperature,
            learning_rate=options.common.lr,
            max_grad_norm=options.common.max_grad_norm,
            max_steps=spec.updates + 1,
            shuffle_dataset=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        tuning = options.tuning
        trainer = GRPOTrainer(
            model=spec.model,
            reward_funcs=rewards,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": conversations, "seed": spec.seeds}),
            peft_config=LoraConfig(r=tuning.rank, lora_alpha=tuning.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Watch()],
        )
        template = trainer.processing_class.apply_chat_template
        lengths = [len(template(conversation, add_generation_prompt=True)["input_ids"]) for conversation in conversations]
        trainer.train()
    return LearnerSide(
        seconds=[after - before for before, after in pairwise(ends)],
        tokens=tokens[1:],
        prompt_tokens=statistics.mean(lengths),
        peak_bytes=peak_bytes(spec.device),
        seeds=list(spec.seeds),
    )


def _conversation(environment: Environment, seed: int) -> list[dict[str, str]]:
    played = play_scripted(environment, seed, fixed(""))
    messages = opening(environment, played.exchanges[0][0], played.instructions)
    return [{"role": message.role, "content": message.text} for message in messages]
