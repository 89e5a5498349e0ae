"""What ranks share and send, without other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tests.learners.conftest import options_of
from tests.learners.ranks.rank_lessons import CASES, REPLAYED, adapter, batch_of
from tests.tiny_models import tiny_llama

from perdure.learners.ranks.leading import open_first
from perdure.learners.ranks.opening import OPENED, REFUSED, Opening, open_like_first, opening_bytes
from perdure.learners.ranks.process_group import Door, Meeting, RankOrder, backend_of, device_of, order_bytes, read_order
from perdure.learners.ranks.rank_bytes import batch_bytes, memory_bytes, read_batch, read_memories, read_weights, weight_bytes
from perdure.learners.ranks.ranks import ALONE, Alone, What, share_of
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable


@dataclass
class Fake(Alone):
    """A rank among others that answer what they are said to."""

    number: int = 0
    count: int = 1
    answers: Sequence[bytes] = ()
    said: list[What] = field(default_factory=list)

    def tell(self, what: What, content: bytes = b"") -> None:
        self.said.append(what)

    def gather(self, content: bytes) -> list[bytes]:
        return [content, *self.answers]


def opening_of(files: ModelFiles) -> Opening:
    return Opening(
        model=files.name,
        hash=files.hash,
        learner="grpo",
        options=options_of(rank=4, alpha=8, passes=2),
        dtype=torch.float32,
        with_teacher=False,
        start=adapter(files, 1),
        references={"serving": adapter(files, 2)},
    )


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_item_is_one_ranks_and_those_with_a_common_beginning_stay_together(count: int) -> None:
    items = [[(group, *range(20), member)] for member in range(4) for group in range(6)]
    shares = [share_of(items, Fake(number=number, count=count)) for number in range(count)]
    assert sorted(i for share in shares for i in share) == list(range(24))
    groups = [{items[i][0][0] for i in share} for share in shares]
    assert sum(map(len, groups)) <= 6 + count - 1
    if count < 8:
        assert max(map(len, shares)) <= 24 / count + 4
    assert all(share_of([], Fake(number=number, count=count)) == [] for number in range(count))


def test_one_rank_computes_all_in_the_order_that_it_got() -> None:
    assert share_of([[(3, 1)], [(1, 2)], [(2, 2)]], ALONE) == [0, 1, 2]


def test_batches_memories_weights_and_orders_are_read_as_they_were_written(llama: ModelFiles) -> None:
    for case in CASES.values():
        batch = batch_of(case)
        assert read_batch(batch_bytes(batch)) == batch
    odd = replace(REPLAYED[0], sampler_logprobs=(float("-inf"),) * REPLAYED[0].tokens, cut_turns=(0,), episode=None)
    assert read_memories(memory_bytes([REPLAYED, [odd]])) == [REPLAYED, [odd]]
    given = {**adapter(llama, 1), "model.norm.weight": torch.arange(4.0)}
    found = read_weights(weight_bytes(given))
    assert found.keys() == given.keys()
    for name, weight in given.items():
        mine = found[name]
        if isinstance(weight, LoraPair):
            assert isinstance(mine, LoraPair)
            assert torch.equal(mine.down_RI, weight.down_RI)
            assert torch.equal(mine.up_OR, weight.up_OR)
            assert mine.scale == weight.scale
        else:
            assert torch.equal(torch.as_tensor(mine), weight)
    order = RankOrder(meeting=Meeting(address="10.0.0.1", port=4000, token="t", count=3, limit_s=7.5), number=2, device="cuda")
    assert read_order(order_bytes(order)) == order
    for wrong in (b"", b"[]", b"{}", b'{"meeting": 3}'):
        with pytest.raises(InputError, match="no order for a rank"):
            read_order(wrong)


def test_a_rank_opens_what_the_first_says(llama: ModelFiles) -> None:
    trainee, options = open_like_first(opening_bytes(opening_of(llama)), "cpu", ALONE, lambda name: llama)
    first = open_first(ALONE, opening_of(llama), llama, "cpu", None)
    assert options == opening_of(llama).options
    assert trainee.references == first.references == {"base", "serving"}
    assert len(trainee.parameters) == len(first.parameters)
    assert all(torch.equal(mine, other) for mine, other in zip(trainee.parameters, first.parameters, strict=True))


def test_another_model_or_release_is_refused_with_both_named(llama: ModelFiles, tmp_path: Path) -> None:
    other = resolve_model(str(tiny_llama(tmp_path / "other", seed=5)), tmp_path, print)
    with pytest.raises(InputError, match=f"{other.hash[:12]}.*{llama.hash[:12]}"):
        open_like_first(opening_bytes(opening_of(llama)), "cpu", ALONE, lambda name: other)
    older = opening_bytes(opening_of(llama)).replace(torch.__version__.encode(), b"1" * len(torch.__version__), 1)
    with pytest.raises(InputError, match=f"torch {torch.__version__.split('+')[0]}.*torch 1111"):
        open_like_first(older, "cpu", ALONE, lambda name: llama)


@pytest.mark.parametrize(("answer", "kind"), [(REFUSED + b"InputError: its model", InputError), (b"OSError: no space", Unavailable)])
def test_the_first_rank_says_why_another_cannot_take_part(llama: ModelFiles, answer: bytes, kind: type[PerdureError]) -> None:
    ranks = Fake(count=3, answers=[OPENED, answer])
    with pytest.raises(kind, match=r"rank 2 of this job cannot take part: (InputError: its model|OSError: no space)"):
        open_first(ranks, opening_of(llama), llama, "cpu", None)
    assert ranks.said == ["open"]


def test_one_rank_begins_no_process_group(llama: ModelFiles) -> None:
    trainee = open_first(ALONE, opening_of(llama), llama, "cpu", None)
    trainee.restart()
    trainee.resume(trainee.state())
    assert not trainee.in_step
    assert not torch.distributed.is_initialized()


def test_ranks_meet_at_one_address_alone() -> None:
    door = Door("127.0.0.1", 2, 5.0)
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert f"0100007F:{door.meeting.port:04X}" in listening
    assert not any(place.endswith(f":{door.meeting.port:04X}") and not place.startswith("0100007F") for place in listening)
    with pytest.raises(Unavailable, match=r"0 of the 1 other ranks of this job came within 0\.1 s"):
        door.join("cpu", 0.1)
    with pytest.raises(RuntimeFailure, match=r"cannot meet at 192\.0\.2\.7"):
        Door("192.0.2.7", 2)


def test_the_device_decides_what_carries_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (backend_of("cpu"), backend_of("cuda"), backend_of("cuda:1")) == ("gloo", "nccl", "nccl")
    assert device_of("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (device_of("cuda"), device_of("cpu")) == ("cuda:3", "cpu")
