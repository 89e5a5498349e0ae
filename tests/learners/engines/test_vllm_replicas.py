"""The vLLM engine with several servers, of which some die, hang, forget, or spoil their numbers: real servers, on ports of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.engines.vllm_speaker import Speaker, every

from perdure.envs.policy import Request
from perdure.learners.engines.vllm_client import Server, base_name, restart_file, server_file, write_server
from perdure.learners.engines.vllm_engine import VllmEngine
from perdure.learners.engines.vllm_replicas import LOOK_S, ServerLimits
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import RuntimeFailure, Unavailable
from perdure.memory.records import StepRef, VersionRef

BASE, STEP = VersionRef("v0"), StepRef(1, 0)
LIMITS = ServerLimits(start_s=2.0, answer_s=0.5, replicas=2)
GROUPS = [Request(prompt_ids=(5, 6, group), max_tokens=2, temperature=1.0) for group in range(6) for _ in range(8)]


class Pair:
    """Two servers of one home, and what each was asked."""

    def __init__(self, home: Path, base: str) -> None:
        (home / "run").mkdir()
        self.home = home
        self.base = base
        self.speakers = [Speaker(base, key=f"key-{n}") for n in range(2)]
        self.started = list(self.speakers)
        for n in range(2):
            self.tell(n, self.speakers[n], pid=n + 1)

    def tell(self, n: int, speaker: Speaker, pid: int) -> None:
        write_server(self.home, Server(url=speaker.server.url, key=speaker.key, pid=pid), n)

    def start_again(self, n: int, pid: int, after_s: float = 0.0) -> Speaker:
        """Another server in place of this one, as its keeper starts it."""
        speaker = Speaker(self.base, key=f"key-{n}-{pid}")
        self.speakers[n] = speaker
        self.started.append(speaker)
        if after_s:
            threading.Timer(after_s, self.tell, (n, speaker, pid)).start()
        else:
            self.tell(n, speaker, pid)
        return speaker

    def asked(self) -> list[int]:
        """Completions that each server has got since the last look."""
        found = [speaker.calls.count("/v1/completions") for speaker in self.speakers]
        for speaker in self.speakers:
            speaker.calls.clear()
        return found


@pytest.fixture
def pair(tmp_path: Path, llama: ModelFiles) -> Iterator[Pair]:
    pair = Pair(tmp_path, base_name(llama))
    yield pair
    for speaker in pair.started:
        speaker.stop()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def engine(pair: Pair, llama: ModelFiles, told: list[str]) -> Iterator[VllmEngine]:
    engine = VllmEngine(llama, pair.home, LIMITS, told.append)
    engine.load(BASE, {})
    pair.asked()
    yield engine
    engine.close()


def weights() -> dict[str, LoraPair]:
    name = "model.layers.0.mlp.up_proj.weight"
    return {name: LoraPair(down_RI=torch.full((4, 32), 0.5), up_OR=torch.full((64, 4), 0.5), scale=2.0)}


def prompts_of(speaker: Speaker) -> list[Any]:
    """Records the prompts that a server gets, from now on."""
    got: list[Any] = []
    speaker.change = every(lambda choice: got.append(tuple(choice["prompt_token_ids"])))
    return got


def test_a_batch_is_spread_and_a_group_stays_together(engine: VllmEngine, pair: Pair) -> None:
    got = [prompts_of(speaker) for speaker in pair.speakers]
    answers = engine.policy(BASE).generate(GROUPS)
    assert len(answers) == len(GROUPS)
    assert [len(prompts) for prompts in got] == [24, 24]
    assert not set(got[0]) & set(got[1])
    later = [replace(request, prompt_ids=(*request.prompt_ids, 7, 7, n)) for n, request in enumerate(GROUPS)]
    engine.policy(BASE).generate(later[::-1])
    assert {prompt[:3] for prompt in got[0]} == set(got[0][:24])


def test_an_adapter_is_loaded_into_every_server_and_each_has_to_use_it(engine: VllmEngine, pair: Pair) -> None:
    engine.load(STEP, weights())
    assert [len(speaker.adapters) for speaker in pair.speakers] == [1, 1]
    engine.unload(STEP)
    assert [len(speaker.adapters) for speaker in pair.speakers] == [0, 0]
    pair.speakers[1].effect = 0.0
    with pytest.raises(RuntimeFailure, match="scores exactly as the base model"):
        engine.load(STEP, weights())


def test_a_server_that_dies_is_left_out_and_asked_again_when_it_is_back(engine: VllmEngine, pair: Pair, told: list[str]) -> None:
    engine.load(STEP, weights())
    pair.asked()
    pair.speakers[1].stop()
    assert len(engine.policy(STEP).generate(GROUPS)) == len(GROUPS)
    assert told == ["vLLM failed (no answer to /v1/completions: [Errno 111] Connection refused); another one was asked again"]
    assert pair.asked()[0] == 2
    assert len(engine.policy(STEP).generate(GROUPS)) == len(GROUPS)
    assert len(told) == 1, "a server that is left out is no news"
    assert pair.asked() == [1, 0]
    again = pair.start_again(1, pid=7)
    time.sleep(LOOK_S + 0.1)
    assert len(engine.policy(STEP).generate([replace(one, prompt_ids=(9, *one.prompt_ids)) for one in GROUPS])) == len(GROUPS)
    assert pair.asked() == [1, 2], "the first one of the new server finds no adapter"
    assert len(again.adapters) == 1
    assert [line for line in told if "has lost" in line]


def test_a_server_that_hangs_is_left_out_until_there_is_another(engine: VllmEngine, pair: Pair, told: list[str]) -> None:
    pair.speakers[0].hangs_s = 3.0
    assert len(engine.policy(BASE).generate(GROUPS)) == len(GROUPS)
    assert told == ["vLLM failed (no answer to /v1/completions in 0.5 s); another one was asked again"]
    pair.asked()
    time.sleep(LOOK_S + 0.1)
    engine.policy(BASE).generate(GROUPS)
    assert pair.asked() == [0, 1], "it answers what needs no computation, and is not asked all the same"
    pair.start_again(0, pid=9)
    time.sleep(LOOK_S + 0.1)
    engine.policy(BASE).generate([replace(one, prompt_ids=(9, *one.prompt_ids)) for one in GROUPS])
    assert pair.asked() == [1, 1]


def test_if_all_are_lost_the_first_that_is_back_is_asked(engine: VllmEngine, pair: Pair, told: list[str]) -> None:
    for n, speaker in enumerate(list(pair.speakers)):
        speaker.stop()
        server_file(pair.home, n).unlink()
    pair.start_again(1, pid=8, after_s=0.5)
    assert len(engine.policy(BASE).generate(GROUPS)) == len(GROUPS)
    assert told
    pair.speakers[1].stop()
    server_file(pair.home, 1).unlink()
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"no vLLM server has answered .* in .* s: see logs/vllm\.log"):
        engine.policy(BASE).generate(GROUPS)
    assert time.monotonic() - started < 4.0


def test_numbers_that_are_not_finite_restart_the_server_that_gave_them(engine: VllmEngine, pair: Pair, told: list[str]) -> None:
    pair.speakers[1].change = every(lambda choice: choice["logprobs"].update(token_logprobs=[float("nan")] * 2))
    pair.start_again(1, pid=6, after_s=0.5)
    assert len(engine.policy(BASE).generate(GROUPS)) == len(GROUPS)
    assert restart_file(pair.home, 1).read_text() == "2"
    assert not restart_file(pair.home).exists()
    assert any("an answer was not finite" in line for line in told)


def test_one_server_is_enough_to_begin_with(pair: Pair, llama: ModelFiles) -> None:
    pair.speakers[0].stop()
    server_file(pair.home).unlink()
    engine = VllmEngine(llama, pair.home, LIMITS)
    engine.load(BASE, {})
    assert len(engine.policy(BASE).generate(GROUPS)) == len(GROUPS)
    engine.close()


def test_all_servers_sleep_and_each_is_woken_by_what_it_is_asked(pair: Pair, llama: ModelFiles) -> None:
    engine = VllmEngine(llama, pair.home, replace(LIMITS, sleeps=True))
    engine.load(BASE, {})
    engine.release_memory()
    assert [speaker.asleep for speaker in pair.speakers] == [True, True]
    engine.policy(BASE).generate(GROUPS)
    assert [speaker.asleep for speaker in pair.speakers] == [False, False]
    engine.close()
