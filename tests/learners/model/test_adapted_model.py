"""The base model in this process against transformers itself: adapters beside weights, attention by blocks, the head."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.learners.conftest import Plain, branches, merged_logprobs, plain_logprobs, plain_model, random_adapter, trainee_of, with_weights
from tests.tiny_models import sharpen, tiny_gpt2
from torch import Tensor

from perdure.learners.model.adapted_linear import LinearGroup
from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.model.block_attention import block_attention, tree_blocks
from perdure.learners.model.head import CHUNK, Head
from perdure.learners.model.tree import build_tree
from perdure.learners.weights.adapters import write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import read_table
from perdure.learners.weights.weight_sets import LoraPair, merge
from perdure.memory.errors import InputError


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A family whose layers are Conv1D: weights are stored as (in, out)."""
    folder = sharpen(tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2"), 0)
    return ModelFiles(name="gpt2", path=folder, hash="")


def adapter(model: AdaptedModel, seed: int, rank: int = 3, size: float = 0.2, layers: str = "") -> dict[str, LoraPair]:
    """A random adapter of all layers, or of those whose names have this part."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LoraPair(
            down_RI=torch.randn(rank, layer.shape[1], generator=generator) * size,
            up_OR=torch.randn(layer.shape[0], rank, generator=generator) * size,
            scale=0.7,
        )
        for name, layer in model.layers.items()
        if layers in name
    }


def logits_of(model: AdaptedModel, sequences: list[list[int]]) -> list[Tensor]:
    tree = build_tree(sequences)
    with torch.no_grad():
        logits_NV = model.head.logits(model.hidden(tree))
    return [logits_NV[path] for path in tree.paths]


def assert_is_plain(model: AdaptedModel, files: ModelFiles, weights: dict[str, LoraPair]) -> None:
    sequences = branches(300)
    plain = with_weights(plain_model(files), weights)
    for sequence, found in zip(sequences, logits_of(model, sequences), strict=True):
        with torch.no_grad():
            expected = plain(input_ids=torch.tensor([sequence])).logits[0]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen", "gpt2"])
def test_logits_are_those_of_merged_weights_for_each_sequence_alone(request: pytest.FixtureRequest, name: str) -> None:
    files: ModelFiles = request.getfixturevalue(name)
    model = AdaptedModel(files, device="cpu", dtype=torch.float32)
    assert_is_plain(model, files, {})
    for seed, rank, layers in ((1, 3, ""), (2, 7, ""), (3, 2, ".0."), (4, 5, "proj")):
        weights = adapter(model, seed, rank, layers=layers)
        model.use(model.prepare(weights))
        assert_is_plain(model, files, weights)
    model.use(model.prepare({}))
    assert_is_plain(model, files, {})


def test_two_adapters_and_the_base_share_the_weights(files: ModelFiles) -> None:
    """Exchanging adapters writes columns of one buffer: no weight moves, and none is copied."""
    model = AdaptedModel(files, device="cpu", dtype=torch.float32)
    first, second = model.prepare(adapter(model, 1)), model.prepare(adapter(model, 2))
    model.use(first)
    before = {name: (layer.weight.data_ptr(), layer.weight.clone()) for name, layer in model.layers.items()}
    said = logits_of(model, branches(300))
    for prepared in (second, model.prepare({}), first):
        model.use(prepared)
        assert all(layer.weight.data_ptr() == before[name][0] for name, layer in model.layers.items())
        assert all(torch.equal(layer.weight, before[name][1]) for name, layer in model.layers.items())
    assert all(torch.equal(a, b) for a, b in zip(said, logits_of(model, branches(300)), strict=True))
    groups = {id(layer.group): layer.group for layer in model.layers.values()}
    assert sorted(len(group.layers) for group in groups.values()) == [1, 1, 1, 1, 2, 2, 3, 3]  # q, k, v; gate and up; o; down
    held = sum(group.weights.untyped_storage().nbytes() for group in groups.values() if isinstance(group, LinearGroup))
    room = sum(4 * group.weights.shape[0] * 3 * len(group.layers) for group in groups.values())
    assert held == sum(4 * layer.weight.numel() for layer in model.layers.values()) + room


def test_whole_tensors_stand_in_for_the_base_and_give_way_to_an_adapter(files: ModelFiles) -> None:
    model = AdaptedModel(files, device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    whole = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in model.tensors().items()}
    model.use(model.prepare(whole))
    plain = with_weights(plain_model(files), whole)
    sequence = branches(300)[0]
    torch.testing.assert_close(logits_of(model, [sequence])[0], plain(input_ids=torch.tensor([sequence])).logits[0], atol=2e-4, rtol=1e-4)
    weights = adapter(model, 1)
    model.use(model.prepare(weights))
    assert_is_plain(model, files, weights)


def test_a_change_of_a_tenth_of_a_step_of_bfloat16_reaches_the_answers(files: ModelFiles) -> None:
    """Merged into weights in bfloat16 most of it would be rounded away. Twelve adapters, since the arithmetic has noise too."""
    model, plain = AdaptedModel(files, device="cpu", dtype=torch.bfloat16), plain_model(files)
    sequences = branches(300)
    model.use(model.prepare({}))
    served, exact = torch.cat(logits_of(model, sequences)), plain_logits(plain, sequences)
    generator = torch.Generator().manual_seed(0)
    moved, by_hand = [], []
    for _ in range(12):
        weights = {name: _tenth_of_a_step(plain.get_parameter(name).detach(), generator) for name in model.layers}
        rounded = {name: plain.get_parameter(name).detach().bfloat16() for name in weights}
        assert all(float((merge(rounded[name], pair) == rounded[name]).float().mean()) > 0.75 for name, pair in weights.items())
        model.use(model.prepare(weights))
        moved.append(torch.cat(logits_of(model, sequences)) - served)
        by_hand.append(plain_logits(with_weights(plain, weights), sequences) - exact)
    moved_Z, by_hand_Z = torch.stack(moved).flatten(), torch.stack(by_hand).flatten()
    assert float(moved_Z @ by_hand_Z / (by_hand_Z @ by_hand_Z)) == pytest.approx(1, abs=0.2)


def _tenth_of_a_step(base_OI: Tensor, generator: torch.Generator) -> LoraPair:
    """A change whose mean size is a tenth of the distance between the median weight and the next number of bfloat16."""
    down, up = torch.randn(1, base_OI.shape[1], generator=generator), torch.randn(len(base_OI), 1, generator=generator)
    return LoraPair(down_RI=down, up_OR=up, scale=0.1 * float(base_OI.abs().median()) * 2.0**-8 / float((up @ down).abs().mean()))


def plain_logits(model: Plain, sequences: list[list[int]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([sequence])).logits[0] for sequence in sequences])


def test_an_adapter_of_a_layer_that_the_model_does_not_have_is_refused(llama: ModelFiles) -> None:
    model = AdaptedModel(llama, device="cpu", dtype=torch.float32)
    with pytest.raises(InputError, match=r"has no linear layer 'model\.layers\.9\.up_proj' that could carry an adapter"):
        model.prepare({"model.layers.9.up_proj.weight": LoraPair(down_RI=torch.ones(1, 2), up_OR=torch.ones(2, 1), scale=1.0)})


def test_a_gradient_through_another_adapter_than_that_of_the_forward_pass_is_an_error(llama: ModelFiles) -> None:
    model = AdaptedModel(llama, device="cpu", dtype=torch.float32)
    trained = {
        name: LoraPair(down_RI=pair.down_RI.requires_grad_(True), up_OR=pair.up_OR.requires_grad_(True), scale=1.0)
        for name, pair in adapter(model, 1).items()
    }
    model.use(model.prepare(trained))
    hidden = model.hidden(build_tree([[5, 6, 7]]))
    model.use(model.prepare({}))
    with pytest.raises(RuntimeError, match="another adapter is in use"):
        hidden.sum().backward()


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("width", [1, 3, 8, 128])
def test_attention_by_blocks_has_the_values_and_gradients_of_a_dense_mask(width: int, window: int | None) -> None:
    generator = torch.Generator().manual_seed(width)
    draws = [torch.randint(0, 3, (n,), generator=generator).tolist() for n in (9, 4, 12, 1, 7, 12, 5, 30)]
    tree = build_tree([*draws, draws[2] + draws[4], draws[2] + draws[0]])
    nodes, H, Q, D = len(tree.ids), 2, 3, 4
    query, key, value = (torch.randn(heads, nodes, D, generator=generator, requires_grad=True) for heads in (H * Q, H, H))
    blocks = tree_blocks(tree.parents, torch.device("cpu"), width).within(window)
    read = block_attention(query, key, value, blocks, 0.6, torch.float32)
    seen = torch.zeros(nodes, nodes, dtype=torch.bool)
    for path in tree.paths:
        for n, node in enumerate(path):
            seen[node, path[max(0, n + 1 - (window or n + 1)) : n + 1]] = True
    keys, values = key.repeat_interleave(Q, 0), value.repeat_interleave(Q, 0)
    share = (query @ keys.mT * 0.6).masked_fill(~seen, -math.inf).softmax(-1)
    expected = (share @ values).transpose(0, 1)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=1e-4)
    towards = torch.randn(read.shape, generator=generator)
    for found, wanted in zip(
        torch.autograd.grad(read, (query, key, value), towards), torch.autograd.grad(expected, (query, key, value), towards), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [5, CHUNK + 7])
@pytest.mark.parametrize("head", [{}, {"scale": 0.25}, {"cap": 3.0}, {"bias_V": torch.linspace(-1, 1, 11)}])
def test_the_head_has_the_log_probs_and_gradients_of_a_softmax(rows: int, head: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight_VC, hidden_KC = torch.randn(11, 6, generator=generator), torch.randn(rows, 6, generator=generator, requires_grad=True)
    row_A, token_A = torch.randint(0, rows, (3 * rows,), generator=generator), torch.randint(0, 11, (3 * rows,), generator=generator)
    made = Head(weight_VC=weight_VC, **head)  # type: ignore[arg-type]
    logits_KV = hidden_KC @ weight_VC.t()
    if isinstance(bias := head.get("bias_V"), Tensor):
        logits_KV = logits_KV + bias
    logits_KV = logits_KV * float(head.get("scale", 1.0))  # type: ignore[arg-type]
    if "cap" in head:
        logits_KV = 3 * (logits_KV / 3).tanh()
    logp_KV = (logits_KV / 0.7).log_softmax(-1)
    found, expected = made.logprobs(hidden_KC, row_A, token_A, 0.7), logp_KV[row_A, token_A]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    towards = torch.randn(3 * rows, generator=generator)
    gradients = [torch.autograd.grad(one, hidden_KC, towards, retain_graph=True)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    other_KC = torch.randn(rows, 6, generator=generator)
    other_KV = (made.logits(other_KC) / 0.7).log_softmax(-1)
    kl_K = (logp_KV.exp() * (logp_KV - other_KV)).sum(-1)
    torch.testing.assert_close(made.divergence(hidden_KC, other_KC, 0.7), kl_K, atol=1e-5, rtol=1e-4)
    weights_K = torch.randn(rows, generator=generator)
    found_KC, wanted_KC = (
        torch.autograd.grad(one, hidden_KC, weights_K, retain_graph=True)[0] for one in (made.divergence(hidden_KC, other_KC, 0.7), kl_K)
    )
    torch.testing.assert_close(found_KC, wanted_KC, atol=1e-4, rtol=1e-3)


def test_an_adapter_of_conv1d_layers_is_learned_written_and_served(gpt2: ModelFiles, tmp_path: Path) -> None:
    """Down reads the input features and up gives the output features, as in PEFT, though the weights are stored the other way round."""
    trainee = random_adapter(trainee_of(gpt2), 1)
    turns = [((5, 6, 7), (8, 9)), ((5, 6), (10, 11, 12))]
    before = trainee.logprobs(turns, 1.0)
    (-before.mean()).backward()
    trainee.step(0.01, 1.0)
    with torch.no_grad():
        learned = trainee.logprobs(turns, 1.0)
    assert float(learned.mean()) > float(before.detach().mean())
    write_weights(tmp_path, trainee.weights(), gpt2)
    read = read_table(tmp_path, gpt2)
    torch.testing.assert_close(merged_logprobs(gpt2, read, turns), learned, atol=2e-4, rtol=0)
    peft = PeftModel.from_pretrained(plain_model(gpt2), str(tmp_path)).eval()
    with torch.no_grad():
        by_peft = torch.cat([plain_logprobs(peft, prompt, action, 1.0) for prompt, action in turns])
    torch.testing.assert_close(by_peft, learned, atol=2e-4, rtol=0)
