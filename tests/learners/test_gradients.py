"""The gradient of a batch compared with plain loops over its sequences, and with TRL's loss if TRL is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import engine_of, options_of, plain_logprobs, plain_model, plain_of, random_adapter, trainee_of
from tests.tiny_models import tiny_llama
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from perdure.envs.policy import Request
from perdure.learners.batches import Lesson
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.gradients import PassStats, accumulate_gradient
from perdure.learners.losses import VARIANTS
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import InputError
from perdure.memory.records import VersionRef

MOST_TOKENS = 9
CAP = 1.5
CLIPS = {"centred": (0.2, 0.2), "grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "rloo": (0.2, 0.2), "gspo": (3e-4, 4e-4)}

Turn = tuple[tuple[int, ...], tuple[int, ...]]


def ids(generator: torch.Generator, n: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 280, (n,), generator=generator).tolist())


def lessons_of(*, turns: int, seed: int = 0) -> list[Lesson]:
    """Two groups of three, under prompts with a common prefix; the second has several turns. Lengths and advantages differ."""
    generator = torch.Generator().manual_seed(seed)
    start = ids(generator, 8)
    made = []
    for group, several in ((0, 1), (1, turns)):
        first = start + ids(generator, 3 + 2 * group)
        for member in range(3):
            prompt, said = first, []
            for _ in range(several):
                action = ids(generator, 2 + member)
                said.append((prompt, action))
                prompt = prompt + action + ids(generator, 3)
            advantage = (1.0, -0.75, 0.5)[member] * (1 + group)
            made.append(Lesson(episode=len(made) + 1, environment="e", turns=tuple(said), sampler_logprobs=None, advantage=advantage))
    return made


def alone(trainee: Trainee, lesson: Lesson) -> Tensor:
    """Its log-probs, turn by turn, each by one ordinary causal pass."""
    return torch.cat([plain_logprobs(plain_of(trainee), prompt, action, 1.0) for prompt, action in lesson.turns])


def near(values: Tensor, seed: int, size: float = 0.4) -> Tensor:
    """Log-probs of a somewhat different policy."""
    return values.detach() + size * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))


def by_loops(
    name: str, lessons: Sequence[Lesson], logp: Sequence[Tensor], old: Sequence[Tensor], lengths: Sequence[int] | None = None
) -> Tensor:
    """The loss as written in each paper, sequence by sequence and token by token; `lengths` count tokens that are left out too."""
    lengths = lengths or [len(one) for one in logp]
    tokens = sum(lengths)
    loss = torch.zeros(())
    for lesson, mine, before, n in zip(lessons, logp, old, lengths, strict=True):
        a = lesson.advantage
        share = {"grpo": 1 / (len(lessons) * n), "rloo": 1 / (len(lessons) * n), "gspo": 1 / (len(lessons) * n)}.get(name, 1 / tokens)
        share = 1 / (len(lessons) * MOST_TOKENS) if name == "dr_grpo" else share
        log_ratio = mine - before
        for t in range(len(mine)):
            correction = 1.0
            if lesson.sampler_logprobs is not None:
                correction = min(float(torch.exp(before[t] - lesson.sampler_logprobs[t])), CAP)
            if name == "cispo":
                value = min(float(log_ratio[t].detach().exp()), 5.0) * a * mine[t]
            else:
                low, high = CLIPS[name]
                of = {"gspo": log_ratio.mean(), "rloo": log_ratio.sum()}.get(name, log_ratio[t])
                value = torch.minimum(of.exp() * a, of.exp().clamp(1 - low, 1 + high) * a)
            loss = loss - share * correction * value
    return loss


def gradient_of(trainee: Trainee, loss: Tensor) -> Tensor:
    loss.backward()
    return trainee.take_gradient()


def gathered(
    trainee: Trainee, lessons: Sequence[Lesson], old: dict[Lesson, Tensor] | None = None, **options: Any
) -> tuple[Tensor, PassStats]:
    seen = accumulate_gradient(
        trainee,
        lessons,
        options_of(ratio_cap=CAP, **options),
        most_tokens=MOST_TOKENS,
        old_logprobs={} if old is None else old,
        extra_losses={},
    )
    return trainee.take_gradient(), seen


def assert_near(found: Tensor, expected: Tensor, share: float = 1e-3) -> None:
    assert float(expected.norm()) > 1e-3
    assert float((found - expected).norm()) < share * float(expected.norm())


def sampled(lessons: Sequence[Lesson], logp: Sequence[Tensor]) -> list[Lesson]:
    """The same with log-probs of a somewhat different sampler; every third lesson has none."""
    return [
        lesson
        if n % 3 == 2
        else Lesson(
            episode=lesson.episode,
            environment=lesson.environment,
            turns=lesson.turns,
            sampler_logprobs=tuple(near(one, 10 + n).tolist()),
            advantage=lesson.advantage,
        )
        for n, (lesson, one) in enumerate(zip(lessons, logp, strict=True))
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_the_gradient_of_plain_loops_however_the_batch_is_split(llama: ModelFiles, name: str) -> None:
    """Off-policy, so that clipping matters; with log-probs of samplers, some unknown; several turns."""
    trainee = random_adapter(trainee_of(llama), 1)
    lessons = lessons_of(turns=3)
    logp = [alone(trainee, lesson) for lesson in lessons]
    old = [near(one, n, 0.3) for n, one in enumerate(logp)]
    lessons = sampled(lessons, logp)
    expected = gradient_of(trainee, by_loops(name, lessons, logp, old))
    for budget in (30, 10_000):
        found, seen = gathered(trainee, lessons, dict(zip(lessons, old, strict=True)), variant=name, budget_tokens=budget)
        assert_near(found, expected)
        assert sum(map(len, seen.log_ratios)) == sum(len(lesson.sampler_logprobs or ()) for lesson in lessons)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_gradients_are_the_same_with_checkpointing(llama: ModelFiles, tuning: str) -> None:
    lessons = [Lesson(**{**fields(lesson), "kl": 0.3, "imitation": 0.2}) for lesson in lessons_of(turns=2)]
    found = []
    for checkpointing in (False, True):
        trainee = random_adapter(trainee_of(llama, tuning=tuning, checkpointing=checkpointing), 1)
        found.append(gathered(trainee, lessons)[0])
    assert float(found[0].norm()) > 0.01
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)


def fields(lesson: Lesson) -> dict[str, Any]:
    return {name: getattr(lesson, name) for name in ("episode", "environment", "turns", "sampler_logprobs", "advantage", "imitation", "kl")}


@pytest.mark.parametrize(("name", "size"), [("centred", 0.05), ("gspo", 1e-4)])
def test_later_passes_are_clipped_against_the_policy_before_the_first(llama: ModelFiles, name: str, size: float) -> None:
    trainee = random_adapter(trainee_of(llama), 1)
    lessons = lessons_of(turns=2)
    before = [alone(trainee, lesson).detach() for lesson in lessons]
    old: dict[Lesson, Tensor] = {}
    first, _ = gathered(trainee, lessons, old, variant=name)
    assert_near(first, gradient_of(trainee, by_loops(name, lessons, [alone(trainee, lesson) for lesson in lessons], before)))
    shaken(trainee, size)
    now = [alone(trainee, lesson) for lesson in lessons]
    second, seen = gathered(trainee, lessons, old, variant=name)
    assert_near(second, gradient_of(trainee, by_loops(name, lessons, now, before)))
    unclipped, _ = gathered(trainee, lessons, {}, variant=name)
    assert float((unclipped - second).norm()) > 0.05 * float(second.norm())
    assert seen.log_ratios[0].numel() == 0  # the sampler's log-probs are unknown


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_kl_term_reaches_the_loss(llama: ModelFiles, estimator: str, tuning: str) -> None:
    """The only loss in the batch, to the serving version if there is one, otherwise to the base model."""
    weights = random_adapter(trainee_of(llama), 7, 0.1).weights()
    for references in ({}, {"serving": weights}):
        trainee = trainee_of(llama, tuning=tuning, references=references)
        if tuning == "lora":
            random_adapter(trainee, 1)
        else:
            shaken(trainee)
        lessons = [Lesson(**{**fields(lesson), "advantage": 0.0, "kl": 0.5 + n}) for n, lesson in enumerate(lessons_of(turns=2))]
        held = random_adapter(trainee_of(llama), 7, 0.1) if references else trainee_of(llama)
        tokens = sum(lesson.tokens for lesson in lessons)
        loss, penalties = torch.zeros(()), []
        for lesson in lessons:
            mine, other = alone(trainee, lesson), alone(held, lesson).detach()
            penalty = 0.5 * (mine - other) ** 2 if estimator == "k2" else (other - mine).exp() - 1 - (other - mine)
            penalties.append(penalty.detach())
            loss = loss + lesson.kl * penalty.sum() / tokens
        expected = gradient_of(trainee, loss)
        found, seen = gathered(trainee, lessons, kl_estimator=estimator, budget_tokens=30)
        assert_near(found, expected)
        assert sum(seen.kl) == pytest.approx(float(torch.cat(penalties).sum()), rel=1e-3)
        nothing, _ = gathered(trainee, [Lesson(**{**fields(lesson), "kl": 0.0}) for lesson in lessons])
        assert not nothing.any()


def shaken(trainee: Trainee, size: float = 0.01) -> None:
    """Move all weights a little."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainee.parameters:
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def test_a_bfloat16_base_has_nearly_the_gradient_of_a_float32_one(files: ModelFiles) -> None:
    """With eight bits of mantissa, two layers and large logits: within 15 % of its norm. The adapter stays in float32."""
    gradients = []
    for dtype in ("float32", "bfloat16"):
        trainee = random_adapter(trainee_of(files, dtype=dtype), 1, 0.1)
        assert {parameter.dtype for parameter in trainee.parameters} == {torch.float32}
        gradients.append(gathered(trainee, lessons_of(turns=2))[0])
    assert_near(gradients[1], gradients[0], 0.15)
    assert not torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize(("dtype", "mean", "most"), [("float32", 1e-5, 2e-4), ("bfloat16", 0.06, 0.5)])
def test_engine_and_learner_give_an_answer_the_same_log_probs(files: ModelFiles, dtype: str, mean: float, most: float) -> None:
    """On tokens that the engine sampled with a merged adapter; these models have larger logits, and so larger errors, than real ones."""
    trainee = random_adapter(trainee_of(files, dtype=dtype), 1, 0.1)
    engine = TransformersEngine(files, device="cpu", dtype=getattr(torch, dtype), seed=0)
    engine.load(VersionRef("v1"), trainee.weights())
    prompts = [lesson.turns[0][0] for lesson in lessons_of(turns=1)]
    samples = engine.generate(VersionRef("v1"), [Request(prompt_ids=p, max_tokens=8, temperature=1.0) for p in prompts * 4])
    with torch.no_grad():
        found = trainee.logprobs([(p, sample.action_ids) for p, sample in zip(prompts * 4, samples, strict=True)], 1.0)
    off = (found - torch.tensor([logp for sample in samples for logp in sample.logprobs])).abs()
    assert len(off) > 100
    assert float(off.mean()) < mean
    assert float(off.max()) < most


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_a_four_bit_base_is_refused(llama: ModelFiles) -> None:
    with pytest.raises(InputError, match=r"quantized=true needs bitsandbytes: pip install 'perdure\[qlora\]'"):
        trainee_of(llama, quantized=True)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_a_four_bit_base_learns_and_nearly_agrees(tmp_path: Path) -> None:
    """With 128 features: a CPU build of bitsandbytes has blocks of 64."""
    pytest.importorskip("bitsandbytes")
    folder = tiny_llama(tmp_path / "model", context=256)
    config = json.loads((folder / "config.json").read_text())
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**{**config, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(folder)
    wide = resolve_model(str(folder), folder, print)
    whole, small = (trainee_of(wide, quantized=quantized) for quantized in (False, True))
    lessons = lessons_of(turns=1)
    turns = [turn for lesson in lessons for turn in lesson.turns]
    with torch.no_grad():
        off = (small.logprobs(turns, 1.0) - whole.logprobs(turns, 1.0)).abs()
    assert 1e-4 < float(off.mean()) < 0.5  # four bits of the same model
    for part in (random_adapter(small, 1, 0.1), random_adapter(whole, 1, 0.1)):
        assert {parameter.dtype for parameter in part.parameters} == {torch.float32}
    found, expected = (gathered(trainee, lessons)[0] for trainee in (small, whole))
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.9  # after a pass without gradients too
    small.put_gradient(found)
    before = small.logprobs(turns, 1.0).detach()
    assert small.step(0.01, 1.0) > 0
    assert not torch.equal(small.logprobs(turns, 1.0), before)
    engine = engine_of(wide)
    engine.load(VersionRef("v1"), small.weights())
    assert all(isinstance(pair, LoraPair) for pair in small.weights().values())


TRL: Mapping[str, dict[str, Any]] = {
    "centred": {"loss_type": "dapo", "epsilon": 0.2},
    "grpo": {"loss_type": "grpo", "epsilon": 0.2},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon": 0.2, "max_completion_length": MOST_TOKENS},
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "rloo": {"epsilon": 0.2},
    "dapo with a KL term": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.3, "use_bias_correction_kl": False},
    "grpo with a KL term": {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.3, "use_bias_correction_kl": False},
    "dr_grpo with a KL term": {
        "loss_type": "dr_grpo",
        "epsilon": 0.2,
        "max_completion_length": MOST_TOKENS,
        "beta": 0.3,
        "use_bias_correction_kl": False,
    },
}


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRL)
def test_each_variant_has_the_gradient_of_trl(llama: ModelFiles, tmp_path: Path, name: str) -> None:
    """TRL's own `_compute_loss` on padded rows of the same answers, for all weights of the model."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    kl = 0.3 if "KL" in name else 0.0
    variant = name.split()[0]
    trainee = trainee_of(llama, tuning="full")
    shaken(trainee)
    lessons = [Lesson(**{**fields(lesson), "kl": kl}) for lesson in lessons_of(turns=1)]
    logp = [alone(trainee, lesson).detach() for lesson in lessons]
    old = [near(one, n, 0.001 if variant == "gspo" else 0.2) for n, one in enumerate(logp)]
    found, _ = gathered(trainee, lessons, dict(zip(lessons, old, strict=True)), variant=variant, kl_estimator="k3")

    model = AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32)
    config, made = (trl.RLOOConfig, trl.RLOOTrainer) if variant == "rloo" else (trl.GRPOConfig, trl.GRPOTrainer)
    settings = {"num_generations": 3, "per_device_train_batch_size": 6, "use_cpu": True, "bf16": False, "report_to": [], "beta": 0.0}
    trainer = made(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config(output_dir=str(tmp_path), **{**settings, "gradient_checkpointing": False, **TRL[name]}),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["What comes next?"] * 6}),
    )
    trainer.model.load_state_dict({name: p.detach() for name, p in trainee.model.net.named_parameters()}, strict=False)
    trainer.model.eval()
    prompts, answers = [lesson.turns[0][0] for lesson in lessons], [lesson.turns[0][1] for lesson in lessons]
    long, wide = max(map(len, prompts)), max(map(len, answers))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (long - len(p)) + list(p) for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (long - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([list(a) + [0] * (wide - len(a)) for a in answers]),
        "completion_mask": torch.tensor([[1] * len(a) + [0] * (wide - len(a)) for a in answers]),
        "advantages": torch.tensor([lesson.advantage for lesson in lessons]),
        "old_per_token_logps": padded(old, wide),
        "old_logps": torch.stack([one.sum() for one in old]),
        "num_items_in_batch": torch.tensor(sum(map(len, answers))),
    }
    if kl:
        base = plain_model(llama)
        inputs["ref_per_token_logps"] = padded([plain_logprobs(base, *lesson.turns[0], 1.0).detach() for lesson in lessons], wide)
    trainer._compute_loss(trainer.model, inputs).backward()
    theirs = dict(trainer.model.named_parameters())
    names = [name for name, _ in trainee.model.net.named_parameters()]
    assert_near(found, torch.cat([theirs[name].grad.flatten() for name in names]))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("variant", "theirs"),
    [("dr_grpo", {"scale_rewards": "none"}), ("grpo", {"scale_rewards": "group"}), ("dapo", {"loss_type": "dapo"}), ("rloo", {})],
)
def test_each_variant_has_the_advantages_of_trl(llama: ModelFiles, tmp_path: Path, variant: str, theirs: dict[str, Any]) -> None:
    """As TRL's trainer computes them from these rewards; one group has equal rewards."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    rewards = [1.0, 0.0, 0.25, 2.0, -1.0, 0.0, 0.5, 0.5, 0.5]
    config, made = (trl.RLOOConfig, trl.RLOOTrainer) if variant == "rloo" else (trl.GRPOConfig, trl.GRPOTrainer)
    settings = {"num_generations": 3, "per_device_train_batch_size": 9, "max_completion_length": 2, "use_cpu": True, "bf16": False}
    trainer = made(
        model=AutoModelForCausalLM.from_pretrained(llama.path, dtype=torch.float32),
        reward_funcs=lambda completions, **_: rewards,
        args=config(output_dir=str(tmp_path), report_to=[], beta=0.0, **settings, **theirs),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["What comes next?"] * 9}),
    )
    found = trainer._generate_and_score_completions([{"prompt": f"What comes after {n}?"} for n in range(3) for _ in range(3)])
    ours = [advantage for n in (0, 3, 6) for advantage in VARIANTS[variant].advantages(rewards[n : n + 3])]
    torch.testing.assert_close(found["advantages"], torch.tensor(ours), atol=1e-5, rtol=1e-5)


def padded(rows: Sequence[Tensor], wide: int) -> Tensor:
    return torch.stack([torch.cat([row, row.new_zeros(wide - len(row))]) for row in rows])
