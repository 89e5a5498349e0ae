"""Learning from right answers: of an oracle, of a file, in the model's own words, and in sight of a teacher or of a second try."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.home import EASY, Learner
from torch import Tensor

from perdure.envs.registry import load_here as load
from perdure.envs.rollout import opening
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.learners.batches import turns_of
from perdure.learners.gradients import MicroBatch
from perdure.learners.learning_job import Retention
from perdure.learners.loops.hints import answers_in_own_words, check_oracle, first_prompt, hinted, retry_with_hints, solved, with_prompt
from perdure.learners.loops.iterative_sft import iterative_sft
from perdure.learners.loops.sdft import sdft, teaching
from perdure.learners.loops.sft import demonstrations, sft, tokens_of
from perdure.learners.sampling.batch_sampling import sample, task_seed
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.traces import episodes_of_step, job_traces

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TWO = f"py:tests.learners.easy:Starts?letters={LETTERS}&rounds=2"


def test_another_first_prompt_is_spliced_in_token_for_token() -> None:
    turns = (((1, 2, 3), (4,)), ((1, 2, 3, 4, 5), (6, 7)))
    assert with_prompt(turns, (9, 8)) == (((9, 8), (4,)), ((9, 8, 4, 5), (6, 7)))


def test_what_is_learned_of_a_hinted_episode_stands_under_the_prompt_without_it(llama_learner: Learner) -> None:
    job = llama_learner.job([TWO], samples=8)
    target, chat = job.environments.targets[0], job.engine.chat
    lessons = answers_in_own_words(job, [(TWO, task_seed(job, target, n)) for n in range(4)])
    assert lessons
    shown = chat.prompt(opening(hinted(target, ["x"]), "?"))
    for lesson in lessons:
        episode = get_episode(job.run.store, lesson.episode or 0)
        assert episode.purpose == "hinted"
        assert episode.success
        sampled = turns_of(episode)
        played = solved(target, episode.seed)
        assert played is not None
        told_answers = [action for _, action in played.exchanges]
        assert sampled[0][0] == first_prompt(job, hinted(target, told_answers), episode)
        assert len(sampled) == len(lesson.turns) == 2
        assert [action for _, action in lesson.turns] == [action for _, action in sampled]
        assert lesson.turns[0][0] == chat.prompt(opening(target, episode.turns[0].observation))
        assert lesson.turns[1][0] == chat.follow(*lesson.turns[0], episode.turns[1].observation)
        assert lesson.sampler_logprobs is None
        assert "A right answer is" not in llama_text(llama_learner, lesson.turns[1][0])
        assert "A right answer is" in llama_text(llama_learner, sampled[1][0])
    assert len(shown) > len(chat.prompt(opening(target, "?")))
    tasks = [get_episode(job.run.store, lesson.episode or 0).seed for lesson in lessons]
    assert len(tasks) == len(set(tasks))  # at most one of a task


def llama_text(learner: Learner, ids: tuple[int, ...]) -> str:
    return learner.engine.chat.text(ids)


def test_only_tasks_that_nobody_won_are_tried_again(llama_learner: Learner) -> None:
    job = llama_learner.job([f"py:tests.learners.easy:Starts?letters={LETTERS}"], samples=2)
    groups = sample(job, 12).target
    failed = {group[0].seed for group in groups if not any(episode.success for episode in group)}
    assert 0 < len(failed) < 12
    retry_with_hints(job, groups)
    rows = job.run.store.rows("SELECT DISTINCT seed FROM episode WHERE purpose = 'hinted'")
    assert {row["seed"] for row in rows} == failed


def test_hinted_groups_never_come_back_as_traces(llama_learner: Learner) -> None:
    llama_learner.learn(EASY, "iterative-sft", updates=2, rounds=1, prompts=4, samples=4, hints=True)
    store = llama_learner.store
    hints = {row["id"] for row in store.rows("SELECT id FROM episode WHERE purpose = 'hinted'")}
    assert hints
    assert not hints & {trace.episode.id for trace in list(job_traces(store, 1, [EASY], 1000))}
    assert not hints & {episode.id for episode in episodes_of_step(store, 1, 0, hinted=False)}
    assert hints == {episode.id for episode in episodes_of_step(store, 1, 0, hinted=True)}
    on_policy = {row["episode"] for row in store.rows("SELECT episode FROM manifest WHERE on_policy = 1")}
    assert on_policy
    assert not on_policy & hints


@pytest.mark.parametrize(
    ("name", "settings"), [("iterative-sft", {"hints": True}), ("sft", {}), ("sft", {"style": "styled"}), ("sdft", {})]
)
def test_a_missing_oracle_is_an_error_before_anything_is_played(llama_learner: Learner, name: str, settings: dict[str, Any]) -> None:
    target = "py:tests.learners.easy:Silent"
    with pytest.raises(InputError, match=r"needs right answers, but .*Silent has no oracle\(\)"):
        llama_learner.learn(target, name, **settings)
    assert llama_learner.store.rows("SELECT count(*) AS n FROM episode")[0]["n"] == 0


@pytest.mark.processes
@pytest.mark.parametrize(
    ("learn", "settings"), [(iterative_sft, {"hints": True}), (sft, {}), (sft, {"style": "styled", "samples": 8}), (sdft, {})]
)
def test_right_answers_come_from_a_process_of_its_own_too(
    llama_learner: Learner, learn: Callable[..., None], settings: dict[str, Any]
) -> None:
    fixed = {"updates": 2, "prompts": 4, "samples": 4, "measure": 0}
    job = llama_learner.job([EASY], with_teacher=learn is sdft, **{**fixed, **settings})
    environment, host = start_sandboxed(EASY, Sandbox())
    try:
        learn(replace(job, environments=replace(job.environments, targets=[environment])))
    finally:
        host.close()
    assert job.progress.step == 2
    assert job.tally.updates[-1].tokens > 0
    silent, host = start_sandboxed("py:tests.learners.easy:Silent", Sandbox())
    try:
        with pytest.raises(InputError, match=r"Silent has no oracle\(\)"):
            check_oracle(silent, "sdft")
    finally:
        host.close()


def test_terse_demonstrations_are_the_oracles_answers_as_play_would_have_made_them(llama_learner: Learner) -> None:
    job = llama_learner.job([TWO], updates=1, prompts=4, samples=2)
    target, chat = job.environments.targets[0], job.engine.chat
    lessons = demonstrations(job)
    assert len(lessons) == 4
    for n, lesson in enumerate(lessons):
        played = solved(target, task_seed(job, target, n))
        assert played is not None
        assert lesson.turns == tokens_of(chat, target, played.exchanges)
        assert [chat.text(action) for _, action in lesson.turns] == [action for _, action in played.exchanges]
        assert lesson.turns[1][0][: len(lesson.turns[0][0])] == lesson.turns[0][0]
    assert lessons == demonstrations(job)


def test_a_file_of_demonstrations_is_learned_from(llama_learner: Learner, tmp_path: Path) -> None:
    file = tmp_path / "demos.jsonl"
    rows: list[Any] = [
        {"observation": "Which?", "action": "a"},
        [{"observation": "1?", "action": "b"}, {"observation": "2?", "action": "c"}],
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = llama_learner.job([EASY], demos=str(file))
    lessons = demonstrations(job)
    assert [len(lesson.turns) for lesson in lessons] == [1, 2]
    assert lessons[0].turns[0][0] == job.engine.chat.prompt(opening(load(EASY), "Which?"))
    version = llama_learner.learn(EASY, "sft", demos=str(file), updates=3)
    assert version.name == "v1"
    steps = llama_learner.steps(2)
    assert {step.lessons for step in steps} == {2}


GOOD = b'{"observation": "x", "action": "y"}\n'
LONG = json.dumps({"observation": "long " * 400, "action": "y"}).encode()


@pytest.mark.parametrize(
    ("content", "settings", "kind", "names"),
    [
        (None, {}, InputError, "cannot be read"),
        (b"{]\n", {}, InputError, "line 1 is not JSON"),
        (b'\n{"observation": "x"}\n', {}, InputError, "line 2 has"),
        (b"[]\n", {}, InputError, "line 1 is empty"),
        (b"\xff\xfe", {}, InputError, "not UTF-8"),
        (b"", {}, RuntimeFailure, "nothing to learn from"),
        (GOOD, {"style": "styled"}, InputError, "leave style=styled out"),
        (GOOD * 40 + LONG, {}, InputError, "demonstration 41 has [0-9]+ tokens, but the context of .* only 256: leave it out"),
    ],
)
def test_a_broken_file_of_demonstrations_is_named(
    llama_learner: Learner, tmp_path: Path, content: bytes | None, settings: dict[str, Any], kind: type[Exception], names: str
) -> None:
    file = tmp_path / "demos.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(kind, match=names):
        llama_learner.learn(EASY, "sft", demos=str(file), updates=1, **settings)
    assert llama_learner.nothing_was_left()


def test_the_teacher_sees_the_demonstration_and_the_student_does_not(llama_learner: Learner) -> None:
    job = llama_learner.job([TWO], samples=2)
    groups = sample(job, 2).target
    for lesson, turns in teaching(job, groups).items():
        assert [action for _, action in turns] == [action for _, action in lesson.turns]
        asked = [llama_text(llama_learner, prompt).count("Which number is the largest?") for prompt, _ in (*turns, *lesson.turns)]
        assert asked == [2] * len(turns) + [1] * len(lesson.turns)  # the teacher has seen the task solved before it is asked
        assert (lesson.advantage, lesson.imitation) == (0, 0)


@pytest.mark.parametrize(
    "settings", [{"direction": "forward"}, {"teacher": "slow", "teacher_rate": 0.5}, {"tuning": "full", "teacher": "slow"}]
)
def test_sdft_comes_nearer_to_its_teacher(llama_learner: Learner, settings: dict[str, Any]) -> None:
    lr = 1e-3 if "tuning" in settings else 0.01
    llama_learner.learn(EASY, "sdft", **{"updates": 4, "prompts": 4, "samples": 4, "lr": lr, "warmup": 0, **settings})
    losses = [step.extra_losses["distillation"] for step in llama_learner.steps(1)]
    assert losses[0] > 0
    assert losses[-1] < losses[0]


def test_an_episode_that_its_teacher_cannot_read_is_left_out(llama_learner: Learner) -> None:
    """The one of two turns is longer than that of one."""
    job = llama_learner.job([TWO, EASY], with_teacher=True, updates=2, prompts=8, samples=4, measure=0)
    lengths = [max(len(p) + len(a) for p, a in turns) for turns in teaching(job, sample(job, 8).target).values()]
    job.trainee.model.context_limit = max(lengths) - 1
    seen: list[str] = []

    def spy(batch: MicroBatch) -> Tensor:
        seen.extend(get_episode(job.run.store, one.episode or 0).environment for one in batch.lessons)
        return torch.zeros(())

    sdft(replace(job, retention=Retention(extra_losses={"spy": spy})))
    assert job.progress.step == 2
    assert Counter(seen) == {EASY: 2 * 4 * 4}


def test_a_teacher_that_sees_more_than_the_context_holds_is_refused(llama_learner: Learner) -> None:
    with pytest.raises(InputError, match=r"episode [0-9]+ after the solved task has [0-9]+ tokens, but the context of"):
        llama_learner.learn("py:tests.learners.easy:Wordy", "sdft", updates=1, prompts=2, samples=2)
