"""Tiny models with weights large enough that every token before the last one matters, and the plain way to compute with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.tiny_models import sharpen, steepen, tiny_llama, tiny_qwen
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from perdure.envs.policy import Ids
from perdure.envs.rollout import nothing
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.option_parsing import parse_options, read_by
from perdure.learners.options import OWN, LearnOptions
from perdure.learners.trainees.lora_weights import LoraWeights
from perdure.learners.trainees.trained_weights import Reference
from perdure.learners.trainees.trainee import Trainee, open_trainee
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge
from perdure.memory.records import VersionRef
from perdure.memory.store import Store, create_store

if TYPE_CHECKING:
    from tests.learners.home import Learner

    from perdure.learners.learning_job import LearningJob

MANY_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONE = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}"
TWO = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=2"
FAILS = "py:tests.learners.easy:Fails"

Plain = Callable[..., Any]
"""A transformers model, or a function that is called as one."""
MakeJob = Callable[..., "LearningJob"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("models") / "llama"
    return resolve_model(str(sharpen(tiny_llama(folder, context=256), 1)), folder, print)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("models") / "qwen"
    return resolve_model(str(sharpen(tiny_qwen(folder, context=256), 2)), folder, print)


@pytest.fixture(scope="session", params=["llama", "qwen"])
def files(request: pytest.FixtureRequest) -> ModelFiles:
    """Each of the two architectures in turn."""
    found: ModelFiles = request.getfixturevalue(request.param)
    return found


def plain_model(files: ModelFiles) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(files.path, dtype=torch.float32)
    return model.eval()


def engine_of(files: ModelFiles, *, seed: int = 0, budget_tokens: int = 1536) -> TransformersEngine:
    return TransformersEngine(files, device="cpu", dtype=torch.float32, seed=seed, budget_tokens=budget_tokens)


def options_of(**options: Any) -> LearnOptions:
    """Of the first learner that reads all of them."""
    learner = next(name for name in OWN if read_by(name, options) == options)
    return parse_options(learner, options)


def trainee_of(
    files: ModelFiles,
    *,
    start: Weights | None = None,
    references: Mapping[Reference, Weights] | None = None,
    with_teacher: bool = False,
    **options: Any,
) -> Trainee:
    """One that learns on the CPU, with a small adapter unless the options say otherwise."""
    made = options_of(**{"rank": 4, "alpha": 8, **options})
    dtype = torch.bfloat16 if made.tuning.dtype == "bfloat16" else torch.float32
    return open_trainee(files, device="cpu", dtype=dtype, options=made, start=start, references=references, with_teacher=with_teacher)


def with_weights(model: PreTrainedModel, weights: Weights) -> Plain:
    """A plain model that computes with merged weights, with gradients by these."""
    tensors = {
        name: merge(model.get_parameter(name).detach(), given, transposed=isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D))
        for name, given in weights.items()
    }
    return lambda input_ids: functional_call(model, tensors, kwargs={"input_ids": input_ids})


def plain_of(trainee: Trainee) -> Plain:
    """A plain model with the weights in training, which get its gradients."""
    model = plain_model(trainee.model.files)
    if isinstance(trainee.trained, LoraWeights):
        for name, pair in trainee.trained.below.items():
            model.get_parameter(name).data = merge(model.get_parameter(name).data, pair)
        return with_weights(model, trainee.trained.above)
    trained = {name: trainee.model.as_on_disk(name, parameter) for name, parameter in trainee.model.net.named_parameters()}
    return lambda input_ids: functional_call(model, trained, kwargs={"input_ids": input_ids})


def merged_logprobs(files: ModelFiles, weights: Weights, turns: Sequence[tuple[Ids, Ids]], temperature: float = 1.0) -> Tensor:
    """Log-probs under merged weights, each sequence alone."""
    model = with_weights(plain_model(files), weights)
    with torch.no_grad():
        return torch.cat([plain_logprobs(model, prompt, action, temperature) for prompt, action in turns])


def plain_logprobs(model: Plain, prompt: Sequence[int], action: Sequence[int], temperature: float) -> Tensor:
    """Log-probs of the action's tokens by one ordinary causal forward pass over this sequence alone."""
    logits_TV = model(input_ids=torch.tensor([[*prompt, *action]])).logits[0].float() / temperature
    logp_TV = logits_TV.log_softmax(-1)
    return torch.stack([logp_TV[len(prompt) - 1 + t, token] for t, token in enumerate(action)])


def random_adapter(trainee: Trainee, seed: int, size: float = 0.2) -> Trainee:
    """Give every layer an adapter that does something: PEFT starts with zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainee.parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return trainee


def copied(table: Weights) -> dict[str, LoraPair]:
    """A table that later updates do not reach."""
    return {
        name: LoraPair(down_RI=p.down_RI.clone(), up_OR=p.up_OR.clone(), scale=p.scale)
        for name, p in table.items()
        if isinstance(p, LoraPair)
    }


def branches(vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Sequences as learning meets them: one prefix for all, groups, later turns that go on from earlier ones, a duplicate, a stranger."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(3, vocabulary, (n,), generator=generator).tolist()

    shots = draw(20)
    first, second = shots + draw(5), shots + draw(7)
    turn = first + draw(4)
    later = turn + draw(6)
    return [turn, first + draw(3), later, later + draw(5), second + draw(1), second + draw(9), turn, first, draw(11), [5]]


@pytest.fixture
def llama_learner(llama: ModelFiles, tmp_path: Path) -> Iterator[Learner]:
    from tests.learners.home import Learner  # it needs what stands above

    with create_store(tmp_path / "home") as store:
        yield Learner(store, llama)


@pytest.fixture
def steep_learner(tmp_path: Path) -> Iterator[Learner]:
    """Plays like any other, and diverges at its first update."""
    from tests.learners.home import Learner  # it needs what stands above

    folder = tmp_path / "steep"
    files = resolve_model(str(steepen(sharpen(tiny_llama(folder, context=256), 1))), folder, print)
    with create_store(tmp_path / "home") as store:
        yield Learner(store, files)


def moved(files: ModelFiles) -> Trainee:
    """Away from the base, so that there is a KL to the version that serves."""
    return random_adapter(trainee_of(files), 3, 0.1)


@pytest.fixture
def make_job(files: ModelFiles, tmp_path: Path) -> Iterator[MakeJob]:
    """Makes jobs, each in a home of its own, at step 0, that learn ONE beside TWO with a trainee that has moved."""
    from tests.learners.home import Learner, never  # it needs what stands above

    stores: list[Store] = []

    def make_job(
        *,
        stop: Callable[[], bool] = never,
        each_round: Callable[[], None] = nothing,
        targets: Sequence[str] = (ONE,),
        old: Sequence[str] = (TWO,),
        **options: Any,
    ) -> LearningJob:
        store = create_store(tmp_path / f"home-{len(stores)}")
        stores.append(store)
        learner = Learner(store, files, seed=1)
        learner.engine.load(VersionRef("v0"), {})
        return learner.job(targets, old, trainee=moved(files), stop=stop, each_round=each_round, **{"temperature": 0.7, **options})

    yield make_job
    for store in stores:
        store.close()
