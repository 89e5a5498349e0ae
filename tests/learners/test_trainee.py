"""The trained model: its log-probs and gradients compared with plain passes through PEFT, one sequence at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.learners.conftest import branches, engine_of, merged_logprobs, plain_logprobs, plain_model, plain_of, random_adapter, trainee_of

from perdure.envs.policy import Request
from perdure.learners.losses import truncated_ratio
from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.model.tree import pack
from perdure.learners.trainees.lora_weights import LoraWeights
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.adapters import write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import read_table
from perdure.memory.errors import InputError
from perdure.memory.records import VersionRef

Turns = list[tuple[list[int], list[int]]]


def turns_of(vocabulary: int) -> Turns:
    """Prompts and actions, with later turns of one episode, a duplicate, and an action that is a prefix of another."""
    sequences = [sequence for sequence in branches(vocabulary) if len(sequence) > 8]
    cut = [(sequence[:-3], sequence[-3:]) for sequence in sequences]
    return [*cut, (sequences[0][:-4], sequences[0][-4:-2]), (sequences[0][:1], sequences[0][1:3])]


def fresh(files: ModelFiles, seed: int = 1, size: float = 0.2) -> Trainee:
    return random_adapter(trainee_of(files, rank=4, alpha=8), seed, size)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_each_sequence_alone(files: ModelFiles, temperature: float) -> None:
    trainee = fresh(files)
    turns = turns_of(300)
    with torch.no_grad():
        found = trainee.logprobs(turns, temperature)
        expected = torch.cat([plain_logprobs(plain_of(trainee), prompt, action, temperature) for prompt, action in turns])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_gradients_are_those_of_each_sequence_alone_however_the_batch_is_split(files: ModelFiles) -> None:
    trainee = fresh(files)
    turns = turns_of(300)
    generator = torch.Generator().manual_seed(0)
    sizes = [len(action) for _, action in turns]
    tokens = sum(sizes)
    advantage_A, weight_A = torch.randn(2, tokens, generator=generator)
    with torch.no_grad():
        sampler_A = trainee.logprobs(turns, 1.0) + 0.5 * torch.randn(tokens, generator=generator)
    first = [sum(sizes[:k]) for k in range(len(turns))]

    def gradient(logprobs: list[tuple[list[int], torch.Tensor]]) -> torch.Tensor:
        for indices, logp_A in logprobs:
            place = torch.tensor([first[i] + t for i in indices for t in range(sizes[i])])
            gain_A = truncated_ratio(logp_A, sampler_A[place], 1.3) * advantage_A[place] * logp_A
            (-(gain_A + weight_A[place] * logp_A).sum() / tokens).backward()
        found = torch.cat([p.grad.flatten() for p in trainee.parameters if p.grad is not None])
        for parameter in trainee.parameters:
            parameter.grad = None
        return found

    def packed(budget: int) -> torch.Tensor:
        batches = pack([[prompt + action] for prompt, action in turns], budget)
        assert (len(batches) > 2) == (budget < 100)
        return gradient([(batch, trainee.logprobs([turns[i] for i in batch], 1.0)) for batch in batches])

    alone = gradient([([i], plain_logprobs(plain_of(trainee), *turns[i], 1.0)) for i in range(len(turns))])
    assert float(alone.norm()) > 0.1
    for budget in (30, 10_000):
        assert float((packed(budget) - alone).norm()) < 1e-4 * float(alone.norm())


def test_it_starts_as_the_base_model(files: ModelFiles) -> None:
    trainee = trainee_of(files, rank=4, alpha=8)
    model = plain_model(files)
    turns = turns_of(300)
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(model, prompt, action, 1.0) for prompt, action in turns])
        torch.testing.assert_close(trainee.logprobs(turns, 1.0), expected, atol=1e-4, rtol=0)


def test_only_the_adapter_moves_and_by_the_rate_that_is_asked_for(files: ModelFiles) -> None:
    trainee = fresh(files)
    frozen = {name: p.clone() for name, p in trainee.model.net.named_parameters() if not p.requires_grad}
    before = [p.detach().clone() for p in trainee.parameters]
    turns = turns_of(300)
    (-trainee.logprobs(turns, 1.0).mean()).backward()
    gradients = torch.cat([p.grad.flatten() for p in trainee.parameters if p.grad is not None])
    norm = trainee.step(1e-2, max_grad_norm=1e9)
    assert norm == pytest.approx(float(gradients.norm()), rel=1e-5)
    moved = torch.cat([(p.detach() - old).flatten() for p, old in zip(trainee.parameters, before, strict=True)])
    clear = gradients.abs() > 1e-6
    torch.testing.assert_close(moved[clear], -1e-2 * gradients[clear].sign(), atol=2e-4, rtol=0)  # Adam's first step
    assert all(p.grad is None or not p.grad.any() for p in trainee.parameters)
    assert all(torch.equal(p, frozen[name]) for name, p in trainee.model.net.named_parameters() if not p.requires_grad)
    assert frozen.keys() == {name for name, _ in plain_model(files).named_parameters()}


def test_steps_make_the_actions_likelier(files: ModelFiles) -> None:
    trainee, turns = fresh(files), turns_of(300)
    losses = []
    for _ in range(8):
        loss = -trainee.logprobs(turns, 1.0).mean()
        loss.backward()
        trainee.step(1e-2, 1.0)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_saved_adapter_has_the_same_log_probs_when_loaded_again_and_in_peft(files: ModelFiles, tmp_path: Path) -> None:
    trainee = fresh(files)
    write_weights(tmp_path, trainee.weights(), files)
    turns = turns_of(300)
    with torch.no_grad():
        expected = trainee.logprobs(turns, 1.0)
        again = trainee_of(files, rank=99, alpha=1, start=read_table(tmp_path, files))  # rank and alpha are the adapter's own
        torch.testing.assert_close(again.logprobs(turns, 1.0), expected, atol=0, rtol=0)
        peft = PeftModel.from_pretrained(plain_model(files), str(tmp_path)).eval()
        plain = torch.cat([plain_logprobs(peft, prompt, action, 1.0) for prompt, action in turns])
    torch.testing.assert_close(plain, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", ["rslora", "named adapter", "only some layers"])
def test_learning_goes_on_from_a_foreign_adapter_as_it_is_served(llama: ModelFiles, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    write_weights(folder, fresh(llama).weights(), llama)
    weights, config = load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_text())
    if change == "rslora":
        config["use_rslora"] = True
    elif change == "named adapter":
        weights = {key.replace(".weight", ".default.weight"): tensor for key, tensor in weights.items()}
    else:
        config["target_modules"] = ["q_proj", "v_proj"]
        weights = {key: tensor for key, tensor in weights.items() if ".q_proj." in key or ".v_proj." in key}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, folder / "adapter_model.safetensors")
    turns = turns_of(300)
    served = merged_logprobs(llama, read_table(folder, llama), turns)
    trainee = trainee_of(llama, rank=16, alpha=32, start=read_table(folder, llama))
    with torch.no_grad():
        torch.testing.assert_close(trainee.logprobs(turns, 1.0), served, atol=1e-4, rtol=0)
    (tmp_path / "saved").mkdir()
    write_weights(tmp_path / "saved", trainee.weights(), llama)
    again = merged_logprobs(llama, read_table(tmp_path / "saved", llama), turns)
    torch.testing.assert_close(again, served, atol=1e-4, rtol=0)


def test_a_model_with_dropout_learns_without_it(qwen: ModelFiles, tmp_path: Path) -> None:
    """Otherwise log-probs of learner and sampler would differ."""
    shutil.copytree(qwen.path, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_dropout": 0.5}))
    trainee = trainee_of(ModelFiles(name="dropout", path=tmp_path / "model", hash=""))
    turns = turns_of(300)
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(plain_model(qwen), prompt, action, 1.0) for prompt, action in turns])
        torch.testing.assert_close(trainee.logprobs(turns, 1.0), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (8, 4)])
def test_the_table_is_what_peft_computes(files: ModelFiles, tmp_path: Path, rank: int, alpha: int) -> None:
    trainee = random_adapter(trainee_of(files, rank=rank, alpha=alpha), 5)
    table = trainee.weights()
    write_weights(tmp_path, table, files)
    plain, peft = plain_model(files), PeftModel.from_pretrained(plain_model(files), str(tmp_path))
    assert len(table) == 2 * 7  # seven linear layers in each block, and not the head
    assert {pair.scale for pair in table.values()} == {alpha / rank}
    for name, pair in table.items():
        layer, base = (model.get_submodule(name.removesuffix(".weight")) for model in (peft.base_model.model, plain))
        with torch.no_grad():
            x = torch.randn(3, base.in_features, generator=torch.Generator().manual_seed(0))
            by_table = base(x) + pair.scale * (x @ pair.down_RI.T) @ pair.up_OR.T
            torch.testing.assert_close(layer(x), by_table, atol=1e-4, rtol=0)


def test_a_model_whose_tokenizer_has_no_pad_token_plays_and_learns_alike(llama: ModelFiles, tmp_path: Path) -> None:
    """Nothing is ever padded."""
    shutil.copytree(llama.path, tmp_path / "model")
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        file = tmp_path / "model" / name
        kept = {key: value for key, value in json.loads(file.read_text()).items() if not key.startswith("pad_token")}
        file.write_text(json.dumps(kept))
    bare = ModelFiles(name="bare", path=tmp_path / "model", hash="")
    asked = [Request(prompt_ids=(5, 6, 7), max_tokens=4, temperature=0.0), Request(prompt_ids=(5,), max_tokens=7, temperature=0.0)]
    found = []
    for files in (bare, llama):
        engine = engine_of(files)
        engine.load(VersionRef("v0"), {})
        found.append(
            ([sample.action_ids for sample in engine.generate(VersionRef("v0"), asked)], fresh(files).logprobs(turns_of(300), 1.0))
        )
    assert engine_of(bare).chat.answer("a")
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], atol=0, rtol=0)


def test_a_tree_that_does_not_fit_into_memory_is_split_and_that_is_logged(llama: ModelFiles, caplog: pytest.LogCaptureFixture) -> None:
    trainee = fresh(llama)
    assert trainee.nodes_at_once(1280) == 640  # float32 takes twice the memory
    with caplog.at_level("DEBUG", logger="perdure.learners"):
        fitting = trainee.nodes_at_once(2**62)
    assert 640 < fitting < 2**40
    assert caplog.messages == [f"{fitting} instead of {2**61} tokens at once: there is no memory for more"]


def test_a_model_without_linear_layers_carries_no_adapter(llama: ModelFiles) -> None:
    model = AdaptedModel(llama, device="cpu", dtype=torch.float32)
    model.layers.clear()
    with pytest.raises(InputError, match="has no Linear or Conv1D layers, so it can carry no adapter: learn with tuning=full"):
        LoraWeights(model, rank=4, alpha=8, start={}, references={}, stacked=False, with_teacher=False, moving_teacher=False)
