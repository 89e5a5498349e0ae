"""O-LoRA: an adapter beside a frozen one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.learners.conftest import copied, engine_of, merged_logprobs, plain_logprobs, plain_model, random_adapter, trainee_of
from tests.learners.retention.lessons import adapter_of, batch_of, even, imitated

from perdure.envs.policy import Request
from perdure.learners.retention.olora import olora, overlap
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.adapters import write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import read_table
from perdure.learners.weights.weight_sets import MAX_RANK, LoraPair, Weights
from perdure.memory.errors import InputError
from perdure.memory.records import VersionRef

LESSONS = imitated(4)
TURNS = [turn for lesson in LESSONS for turn in lesson.turns]


def old_weights(files: ModelFiles) -> Weights:
    """An adapter of another rank and scale."""
    return copied(random_adapter(trainee_of(files, rank=3, alpha=9), 7, 0.1).weights())


def stacked(files: ModelFiles, **options: object) -> Trainee:
    return trainee_of(files, start=old_weights(files), references={"serving": old_weights(files)}, olora=0.5, **options)


def of(rows: list[list[float]]) -> LoraPair:
    down = torch.tensor(rows)
    return LoraPair(down_RI=down, up_OR=torch.zeros(2, len(down)), scale=1.0)


def test_the_overlap_by_hand() -> None:
    old = {"a": of([[1, 0, 0], [0, 2, 0]]), "b": of([[1, 1, 1]]), "only old": of([[9, 9, 9]])}
    new = {"a": of([[3, -1, 5]]), "b": of([[1, -1, 0], [0, 0, -2]]), "only new": of([[9, 9, 9]])}
    # a: |3| + |-2|; b: |0| + |-2|
    assert float(overlap(old, new)) == 7


def test_only_the_new_adapter_moves_and_it_starts_as_the_old_one_alone(llama: ModelFiles) -> None:
    trainee, old = stacked(llama), old_weights(llama)
    with torch.no_grad():
        torch.testing.assert_close(trainee.logprobs(TURNS, 1.0), merged_logprobs(llama, old, TURNS), atol=1e-4, rtol=0)
    loss = olora(adapter_of(trainee), 0.5)
    before = {name: p.detach().clone() for name, p in trainee.model.net.named_parameters()}
    new = [p.detach().clone() for p in trainee.parameters]
    for _ in range(3):
        trainee.logprobs(TURNS, 1.0, "base")
        trainee.logprobs(TURNS, 1.0, "serving")
        (-trainee.logprobs(TURNS, 1.0).mean() + loss(batch_of(trainee, LESSONS, even(LESSONS)))).backward()
        trainee.step(0.02, 1.0)
    assert all(torch.equal(p, before[name]) and not p.requires_grad for name, p in trainee.model.net.named_parameters())
    assert all(len(p) == 4 or p.shape[1] == 4 for p in trainee.parameters)
    assert not any(torch.equal(p, first) for p, first in zip(trainee.parameters, new, strict=True))
    for name, pair in adapter_of(trainee).below.items():
        torch.testing.assert_close(pair.down_RI, old[name].down_RI)


def test_the_penalty_makes_what_they_read_orthogonal(llama: ModelFiles) -> None:
    trainee = stacked(llama)
    loss = olora(adapter_of(trainee), 2.0)
    values = []
    for _ in range(20):
        value = loss(batch_of(trainee, LESSONS, even(LESSONS, 0.5)))
        values.append(float(value.detach()))
        value.backward()
        trainee.step(0.01, 1e9)
    by_hand = sum(
        float((adapter_of(trainee).below[n].down_RI @ p.down_RI.T).abs().sum().detach()) for n, p in adapter_of(trainee).above.items()
    )
    assert values[-1] < 0.5 * values[0]
    assert float(loss(batch_of(trainee, LESSONS, even(LESSONS, 0.5))).detach()) == pytest.approx(by_hand, rel=1e-4)


def test_the_version_is_the_sum_of_both_in_the_engine_and_in_peft(llama: ModelFiles, tmp_path: Path) -> None:
    trainee = stacked(llama)
    random_adapter(trainee, 3, 0.1)
    with torch.no_grad():
        expected = trainee.logprobs(TURNS, 1.0)
    weights = trainee.weights()
    assert {(len(pair.down_RI), pair.scale) for pair in weights.values() if isinstance(pair, LoraPair)} == {(3 + 4, 2.0)}
    for name, pair in weights.items():
        assert isinstance(pair, LoraPair)
        low, high = adapter_of(trainee).below[name], adapter_of(trainee).above[name]
        both = sum(one.scale * one.up_OR.detach() @ one.down_RI.detach() for one in (low, high))
        torch.testing.assert_close(pair.scale * pair.up_OR @ pair.down_RI, both, atol=1e-5, rtol=1e-4)
    write_weights(tmp_path / "saved", weights, llama)
    saved = read_table(tmp_path / "saved", llama)
    engine = engine_of(llama)
    engine.load(VersionRef("v2"), saved)
    (sample,) = engine.generate(VersionRef("v2"), [Request(prompt_ids=TURNS[0][0], max_tokens=6, temperature=1.0)])
    with torch.no_grad():
        said = trainee.logprobs([(TURNS[0][0], sample.action_ids)], 1.0)
        peft = PeftModel.from_pretrained(plain_model(llama), str(tmp_path / "saved")).eval()
        by_peft = torch.cat([plain_logprobs(peft, prompt, action, 1.0) for prompt, action in TURNS])
    torch.testing.assert_close(torch.tensor(sample.logprobs), said, atol=2e-4, rtol=0)
    torch.testing.assert_close(by_peft, expected, atol=2e-4, rtol=0)


def test_ranks_that_add_up_to_too_much_are_refused(llama: ModelFiles) -> None:
    with pytest.raises(InputError, match=f"rank {MAX_RANK} beside one of rank 3 exceeds the largest rank, {MAX_RANK}"):
        stacked(llama, rank=MAX_RANK)
