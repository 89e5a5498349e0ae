"""How a process is set up for its machine: products of fp32 tensors, freed memory, and the faster precision."""

from __future__ import annotations

import platform
import resource
import time
from pathlib import Path

import pytest
import torch
from tests.learners.conftest import engine_of

from perdure.envs.policy import Request
from perdure.learners.engines.version_loading import open_transformers_engine
from perdure.learners.hardware import faster_dtype, faster_threads, keep_freed_memory, set_up_process, threads
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.processes import precision_for
from perdure.memory.records import VersionRef
from perdure.memory.store import create_store


def products() -> str:
    return torch.get_float32_matmul_precision()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_only_an_engine_in_bfloat16_lets_its_process_multiply_fp32_in_bfloat16(llama: ModelFiles, tmp_path: Path, dtype: str) -> None:
    """In float32 products stay exact, whichever library computes them."""
    assert products() == "highest"
    with create_store(tmp_path / "home") as store:
        assert precision_for(store, "cpu", lambda: dtype) == dtype
        assert open_transformers_engine(store, llama, device="cpu", seed=0).dtype == getattr(torch, dtype)
    if dtype == "bfloat16":
        assert products() == "medium"
    else:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(256, 512, generator=generator), torch.randn(512, 256, generator=generator)
        torch.testing.assert_close(x @ y, (x.double() @ y.double()).float(), atol=1e-4, rtol=0)


def test_the_tests_multiply_in_fp32() -> None:
    """Whatever engines other tests opened in this process."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 512, generator=generator), torch.randn(512, 256, generator=generator)
    assert products() == "highest"
    torch.testing.assert_close(x @ y, (x.double() @ y.double()).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("before", ["highest", "medium"])
def test_precisions_are_measured_in_full_and_the_setting_stays(before: str) -> None:
    torch.set_float32_matmul_precision(before)
    assert faster_dtype("cpu", repeats=1) in (torch.bfloat16, torch.float32)
    assert products() == before


@pytest.mark.parametrize("slow", [1, 2])
def test_the_faster_number_of_threads_is_chosen_and_the_setting_stays(slow: int) -> None:
    before, seen = torch.get_num_threads(), []

    def step() -> None:
        seen.append(torch.get_num_threads())
        if seen[-1] == slow:
            time.sleep(0.02)

    with threads(2):
        assert faster_threads(step) == 3 - slow
        assert torch.get_num_threads() == 2
        assert set(seen) == {1, 2}
    with pytest.raises(ZeroDivisionError), threads(2):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_an_engine_that_was_measured_answers_the_same(llama: ModelFiles) -> None:
    engine, asked = engine_of(llama), [Request(prompt_ids=(5, 6, 7), max_tokens=8, temperature=0.0)]
    engine.load(VersionRef("v0"), {})
    before = engine.generate(VersionRef("v0"), asked)
    with threads(2):
        engine.choose_threads()
        assert engine.generate(VersionRef("v0"), asked)[0].action_ids == before[0].action_ids
        assert torch.get_num_threads() == 2


def test_freed_memory_is_used_again_without_new_pages() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        return
    set_up_process(torch.float32, "cpu")
    megabytes, times = 64, 8
    torch.ones(megabytes * 2**18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(megabytes * 2**18)
    new_pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert new_pages < times * megabytes * 2**20 / resource.getpagesize() / 4
