"""The benchmarks run, and both sides do the work that they say they do. The numbers of a tiny model mean nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.learners.conftest import plain_logprobs, plain_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from perdure.agent.bench.actor_overhead import MEMBERS, WIDTH, bench_play
from perdure.agent.bench.bench_tasks import LONG_PROMPT, one_turn
from perdure.agent.bench.learner_sides import BatchSpec
from perdure.agent.bench.sampling import PROMPTS, SAMPLES, Peer, bench_engine
from perdure.agent.bench.updates import bench_learner, has_peer
from perdure.agent.bench.vllm_speed import shape_1b
from perdure.agent.cli import perdure
from perdure.envs.registry import load
from perdure.envs.scripted import fixed, play_scripted
from perdure.learners.hardware import faster_dtype
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import tasks
from perdure.memory.store import open_store
from perdure.memory.trajectories.episodes import list_episodes

TASK = "perdure:copy-word?shots=1"
OTHER = "perdure:last-word?shots=1"


def test_engine_and_peer_sample_equally_many_tokens_in_equal_work(llama: ModelFiles) -> None:
    lines: list[str] = []
    found = bench_engine(llama, [load(TASK), load(OTHER)], device="cpu", repeats=2, max_tokens=5, say=lines.append)
    assert [(speed.work, speed.prompts) for speed in found.speeds] == [
        ("equal work", "with solved examples"),
        ("equal work", "zero-shot, nothing shared"),
        ("as it runs", "with solved examples"),
        ("as it runs", "zero-shot, nothing shared"),
    ]
    for speed in found.speeds:
        assert len(speed.rates) == 2
        assert speed.ratio > 0
        if speed.work == "equal work":
            assert speed.tokens == [(PROMPTS * SAMPLES * 5,) * 2] * 2
    assert found.logprob_mean_gap < (1e-4 if found.dtype == "float32" else 0.2)
    assert {speed.peer_dtype for speed in found.speeds} <= {"bfloat16", "float32"}
    assert found.speeds[1].prompt_tokens > LONG_PROMPT
    assert len(lines) == 1 + 4 * (1 + 2 + 1)
    assert lines[1].startswith("equal work, with solved examples: 1 of 3 runs, about")
    assert found.product_flop_s > 1e8
    assert all(0 < speed.share_of_bound < 1 for speed in found.speeds)
    # both sampled equally many tokens, but of prompts that share nothing more had to be computed
    assert found.speeds[0].bound_s != found.speeds[1].bound_s
    json.dumps(found.as_json())


def test_the_peer_ends_answers_at_the_models_end_tokens(llama: ModelFiles) -> None:
    peer = Peer(llama, device="cpu", dtype=torch.float32, table={})
    prompts = [(5, 6, 7), (8, 9)]
    torch.manual_seed(0)
    whole = peer.generate(prompts * 40, 12, stops=False)
    cut = peer.generate(prompts * 40, 12, stops=True)
    assert {len(action) for action in whole} == {12}
    assert all(2 not in action[:-1] for action in cut)  # <|im_end|>
    with torch.no_grad():
        expected = plain_logprobs(plain_model(llama), prompts[1], whole[1], 1.0)
    torch.testing.assert_close(peer.logprobs(prompts[1], whole[1]), expected, atol=1e-4, rtol=0)


def test_equal_work_rewards_each_answer_differently_and_other_work_keeps_the_tasks_rewards() -> None:
    hashed, real = (one_turn(load(TASK), 6, is_hashed=is_hashed) for is_hashed in (True, False))
    answers = [str(n) for n in range(50)]
    assert len({play_scripted(hashed, 3, fixed(answer)).total_reward for answer in answers}) == 50
    assert {play_scripted(real, 3, fixed(answer)).total_reward for answer in answers} == {0.0}
    assert play_scripted(hashed, 3, fixed("a")).exchanges[0][0] == play_scripted(real, 3, fixed("a")).exchanges[0][0]


def test_an_actors_own_work_is_what_is_left_of_its_time(llama: ModelFiles, tmp_path: Path) -> None:
    environments = [load(TASK), load("perdure:guess-number?turns=3&max_tokens=4")]
    real, at_once = bench_play(tmp_path, llama, environments, device="cpu", batches=2, say=lambda line: None)
    assert (real.policy, real.episodes, at_once.episodes) == (llama.name, 2 * WIDTH, 2 * WIDTH)
    assert at_once.rounds > 2, "one of the environments has several turns"
    assert 0 < real.generating_s < real.wall_s
    assert 0 < real.own_share < at_once.own_share < 1
    assert at_once.own_ms_per_round > 0
    with open_store(tmp_path / "play") as store:
        assert tasks.counts(store) == {"queued": 0, "running": 0, "done": 2 * (1 + 2) * WIDTH // MEMBERS, "failed": 0}
        assert {episode.state for episode in list_episodes(store, limit=999)} == {"completed"}
    json.dumps([real.as_json(), at_once.as_json()])


def test_a_model_of_1b_shape_has_as_many_parameters_and_is_in_bfloat16(llama: ModelFiles) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama.path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape_1b(tokenizer))
    own = sum(one.numel() for one in model.parameters()) - len(tokenizer) * 2048
    assert own == 973_146_112, "of Llama 3.2 1B's 1,235,814,400 without the 128,256 rows of its vocabulary"
    assert own == 1_235_814_400 - 128_256 * 2048
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


@pytest.mark.timeout(900)
@pytest.mark.processes
@pytest.mark.peers
@pytest.mark.skipif(not has_peer(), reason="TRL is not installed")
def test_trl_does_the_same_work(llama: ModelFiles) -> None:
    batch = BatchSpec(environment=TASK, max_tokens=6, prompts=8, samples=8)
    default_job = BatchSpec(environment=TASK, max_tokens=0, prompts=4, samples=4)
    lines: list[str] = []
    pairs = bench_learner(llama, batch, default_job, device="cpu", updates=1, say=lines.append)
    assert any(re.fullmatch(r"equal work, float32: TRL 1 of 2 updates, about \d+ (s|min) left", line) for line in lines)
    assert pairs[-1].trl is None
    for pair in pairs[:-1]:
        assert pair.trl is not None
        assert pair.trl.prompt_tokens == pair.ours.prompt_tokens
        assert pair.trl.seeds == pair.ours.seeds
        if pair.work == "equal work":
            assert pair.trl.tokens == pair.ours.tokens == [8 * 8 * 6]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.processes
def test_the_command_prints_one_json_document(llama: ModelFiles, tmp_path: Path) -> None:
    config = tmp_path / "perdure.toml"
    config.write_text(f"model = {str(llama.path)!r}\n[stream]\nenvironments = ['{TASK}', '{OTHER}']\n")
    small = ["--tokens", "6", "--repeats", "1", "--updates", "2", "--episodes", "100", "--target", TASK]
    arguments = ["bench", "all", "--config", str(config), *small, "--json"]
    done = CliRunner().invoke(perdure, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["engine"]["speeds"]) == 4
    faster = str(faster_dtype("cpu")).removeprefix("torch.")
    rows = [("equal work", faster), ("equal work", "float32"), ("as it runs", faster), ("default job", faster)]
    assert [(row["work"], row["dtype"]) for row in found["learner"]["rows"]] == rows[faster == "float32" :]
    assert "default job, " + faster + ": ours starts, " in done.stderr, "progress goes into a pipe too"
    for row in found["learner"]["rows"]:
        assert 0 < row["ours"]["share_of_bound"] < 1
        assert all(0 < part < whole for part, whole in zip(row["ours"]["sampling_s"], row["ours"]["seconds"], strict=True))
    default_job = found["learner"]["rows"][-1]["ours"]
    assert default_job["episodes"] == [128] * 2, "half of them replay"
    assert len(default_job["seeds"]) == 3 * 8
    ours = found["learner"]["rows"][0]["ours"]
    assert ours["episodes"] == [64] * 2
    assert ours["tokens"] == [8 * 8 * 6] * 2
    assert len(ours["seconds"]) == 2
    assert len(set(ours["seeds"])) == 3 * 8
    assert ours["peak_bytes"] > 50 * 2**20
    assert (found["learner"]["note"] is None) == has_peer()
    assert [row["batch"] for row in found["store"]["journal"]["batches"]] == [1, 8, 64]
    assert found["store"]["large"]["episodes"] == 100
    assert len(found["play"]) == 2
