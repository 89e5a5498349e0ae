"""Whether a loaded adapter is really used: one fixed exchange must score otherwise than under the base model.

An engine may take an adapter whose layers it knows by other names, touch no layer, and answer as the base model under the adapter's name.
"""

from __future__ import annotations

from perdure.envs.policy import Ids, Message, PolicyError
from perdure.learners.engines.engine import Engine
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import Sampler, VersionRef

BASE = VersionRef("base model")
"""The base model's name in an engine that was asked to compare; no version can be called so."""
LEAST_EFFECT = 1e-4
"""Norm of an adapter's product at one layer, below which rounding may hide it."""
MOST_TOKENS = 12
"""Of the prompt, and of the answer."""
_ASKED = "Name a colour, a number and a day of the week."
_SAID = "Green, seventeen, Monday."


def require_effect(engine: Engine, sampler: Sampler, weights: Weights) -> bool:
    """Raise `RuntimeFailure` if a sampler that was just loaded scores exactly as the base model, though its adapter is not zero.

    Whether it was compared: an adapter that is zero, or nearly so, is not.
    """
    if not _acts(weights):
        return False
    if BASE not in engine:
        engine.load(BASE, {})
    exchange = _exchange(engine)
    try:
        has_effect = engine.logprobs(BASE, [exchange]) != engine.logprobs(sampler, [exchange])
    except PolicyError as error:
        engine.unload(sampler)
        raise RuntimeFailure(f"{sampler} could not be compared with the base model: {error}") from error
    if not has_effect:
        engine.unload(sampler)
        raise RuntimeFailure(
            f"{sampler} scores exactly as the base model, though its adapter is not zero: the engine ({engine.numerics}) has loaded it "
            "without using it; set engine = 'transformers'"
        )
    return True


def prompt_scores(engine: Engine, sampler: Sampler) -> tuple[float, ...]:
    """The log-probs of the fixed answer under a sampler that is loaded, so that two engines can be compared. Raises as `logprobs` does."""
    return engine.logprobs(sampler, [_exchange(engine)])[0]


def _acts(weights: Weights) -> bool:
    """Whether any layer's product is large enough to be seen. One with values that are not finite is found when it is sampled from."""
    sizes = [
        pair.scale * float(pair.down_RI.detach().float().norm()) * float(pair.up_OR.detach().float().norm())
        for pair in weights.values()
        if isinstance(pair, LoraPair)
    ]
    return all(size < float("inf") for size in sizes) and any(size >= LEAST_EFFECT for size in sizes)


def _exchange(engine: Engine) -> tuple[Ids, Ids]:
    """A prompt and an answer, cut so that scoring them takes no time."""
    most = max(1, min(MOST_TOKENS, engine.context_limit // 2 - 1))
    return engine.chat.prompt([Message(role="user", text=_ASKED)])[:most], engine.chat.answer(_SAID)[:most]
