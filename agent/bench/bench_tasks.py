"""What the benchmarks play and ask: an environment for equal work, first prompts, and an adapter that changes little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import torch

from perdure.envs.environment import AnyText, Environment, TextEnv
from perdure.envs.guarded import open_episode
from perdure.envs.policy import Chat, Ids
from perdure.envs.rollout import opening
from perdure.envs.seeds import dev_seed
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import base_shapes
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.json_value import Document

LONG_PROMPT = 60
"""The least tokens of a prompt without examples: it may hold several questions."""


class _Hashed(TextEnv):
    """The tasks of another environment; the reward is a hash of the answer, so that the members of a group differ."""

    def __init__(self, inner: TextEnv) -> None:
        self._inner = inner
        self.observation_space = self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: Document | None = None) -> tuple[str, Document]:
        return self._inner.reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, Document]:
        reward = int.from_bytes(sha256(action.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32
        return "", reward, True, False, {}

    def close(self) -> None:
        self._inner.close()


def one_turn(environment: Environment, max_tokens: int, *, is_hashed: bool) -> Environment:
    """The environment with answers of up to `max_tokens`, in one turn; if `is_hashed`, with rewards that always differ."""
    asked = replace(environment, max_tokens=max_tokens, turn_limit=1)
    return replace(asked, make=lambda: _Hashed(asked.make())) if is_hashed else asked


def first_prompts(chat: Chat, environments: Sequence[Environment], n: int, at_least: int = 0) -> list[Ids]:
    """The first prompts of `n` tasks, of the environments in turn."""
    return [_first_prompt(chat, environments[draw % len(environments)], draw, at_least) for draw in range(n)]


def _first_prompt(chat: Chat, environment: Environment, draw: int, at_least: int) -> Ids:
    """The first prompt of a task; of several tasks in one if a single task has fewer than `at_least` tokens."""
    questions: list[str] = []
    while True:
        env = open_episode(environment)
        try:
            questions.append(env.reset(dev_seed(draw, environment.name, len(questions))))
        finally:
            env.close()
        prompt = chat.prompt(opening(environment, "\n".join(questions)))
        if len(prompt) >= at_least:
            return prompt


def random_adapter(files: ModelFiles, rank: int, seed: int) -> dict[str, LoraPair]:
    """A small random adapter on every linear layer but the last one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.weight": LoraPair(
            down_RI=torch.randn(rank, features, generator=generator) * 0.01,
            up_OR=torch.randn(out, rank, generator=generator) * 0.01,
            scale=1.0,
        )
        for module, (out, features) in base_shapes(files).items()
    }
