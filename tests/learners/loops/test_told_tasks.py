"""Learning in environments whose tasks have a system message of their own: each prompt that is made again has it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.learners.home import Learner

from perdure.envs.policy import Message
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import opening
from perdure.learners.batches import turns_of
from perdure.learners.loops.foreign_lessons import foreign_lessons
from perdure.learners.loops.hints import answers_in_own_words, solved
from perdure.learners.loops.sdft import teaching
from perdure.learners.loops.sft import demonstrations
from perdure.learners.sampling.batch_sampling import sample, task_seed
from perdure.memory.exchange.export import export
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.traces import foreign_traces

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TELLS = f"py:tests.learners.easy:Tells?letters={LETTERS}&rounds=2"


def test_what_is_sampled_was_asked_with_it_and_the_store_has_it(llama_learner: Learner) -> None:
    job = llama_learner.job([TELLS])
    target, chat = job.environments.targets[0], job.engine.chat
    for group in sample(job, 2).target:
        for episode in group:
            kept = get_episode(job.run.store, episode.id)
            assert kept.instructions == episode.instructions == f"Task {kept.seed}."
            assert kept.turns[0].prompt_ids == chat.prompt(opening(target, kept.turns[0].observation, kept.instructions))


def test_answers_to_a_hint_and_those_of_a_teacher_stand_under_it(llama_learner: Learner) -> None:
    job = llama_learner.job([TELLS], samples=8)
    target, chat = job.environments.targets[0], job.engine.chat
    lessons = answers_in_own_words(job, [(TELLS, task_seed(job, target, n)) for n in range(4)])
    assert lessons
    for lesson in lessons:
        episode = get_episode(job.run.store, lesson.episode or 0)
        asked = opening(target, episode.turns[0].observation, f"Task {episode.seed}.")
        assert lesson.turns[0][0] == chat.prompt(asked)
    groups = sample(job, 2).target
    for student, turns in teaching(job, groups).items():
        episode = get_episode(job.run.store, student.episode or 0)
        assert student.turns == turns_of(episode)
        played = solved(target, episode.seed)
        assert played is not None
        assert played.instructions == f"Task {episode.seed}."
        system = chat.prompt([Message(role="system", text=f"Task {episode.seed}.")])[:8]
        assert turns[0][0][: len(system)] == student.turns[0][0][: len(system)] == system


def test_right_answers_are_shown_under_it(llama_learner: Learner) -> None:
    job = llama_learner.job([TELLS], updates=1, prompts=4, samples=2)
    target, chat = job.environments.targets[0], job.engine.chat
    lessons = demonstrations(job)
    prompts = set()
    for n in range(len(lessons)):
        seed = task_seed(job, target, n)
        played = solved(target, seed)
        assert played is not None
        prompts.add(chat.prompt(opening(target, played.exchanges[0][0], f"Task {seed}.")))
    assert {lesson.turns[0][0] for lesson in lessons} == prompts


def test_an_export_that_is_imported_elsewhere_is_learned_under_it(llama_learner: Learner, tmp_path: Path) -> None:
    """By another model its texts are learned; its tokens say nothing there."""
    job = llama_learner.job([TELLS])
    target, chat = job.environments.targets[0], job.engine.chat
    (episode, *_) = sample(job, 1).target[0]
    file = tmp_path / "out.jsonl"
    export(llama_learner.store, file, "jsonl")
    documents = [json.loads(line) for line in file.read_text().splitlines()]
    document = next(document for document in documents if document["id"] == episode.id)
    assert document["instructions"] == f"Task {episode.seed}."
    for key in ("digest", "base_hash"):
        del document[key]
    document |= {"base_model": "another", "purpose": "learn"}
    (tmp_path / "edited.jsonl").write_text(json.dumps(document) + "\n" + json.dumps({**document, "environment": "elsewhere"}) + "\n")
    import_file(llama_learner.store, tmp_path / "edited.jsonl", "others")
    elsewhere, here = (lesson.turns[0][0] for lesson in foreign_lessons(job, foreign_traces(llama_learner.store, "others")))
    observation = episode.turns[0].observation
    assert here == chat.prompt(opening(load(TELLS), observation, f"Task {episode.seed}."))
    assert elsewhere == chat.prompt([Message(role="system", text=f"Task {episode.seed}."), Message(role="user", text=observation)])
    assert target.name == load(TELLS).name
