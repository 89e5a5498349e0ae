"""`[chat] thoughts = drop`: each turn is a sequence of its own, made anew from the texts, in play and in learning. And what a template
does not accept ends one episode."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.envs import faulty
from tests.envs.faulty import Counting
from tests.fakes import ByteChat, ListJournal, ScriptedPolicy
from tests.learners.home import Learner

from perdure.envs.playing import Attempt
from perdure.envs.policy import Ids, Message
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import conversation, play
from perdure.learners.batches import lesson, turns_of
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.loops.foreign_lessons import foreign_lessons
from perdure.learners.loops.hints import retold
from perdure.learners.loops.sft import tokens_of
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.leases import BootClock
from perdure.memory.records import Episode, Lease, VersionRef
from perdure.memory.store import create_store
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.traces import foreign_traces
from perdure.memory.upkeep.integrity import check

SERVING = VersionRef("v0")
TWO = "py:tests.learners.easy:Starts?letters=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ&rounds=2"

TELLS = TWO.replace("Starts", "Tells")
"""The same with a system message for each task."""


class SeparateChat(ByteChat):
    separate = True

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        raise AssertionError("separate turns do not follow each other")


class PickyChat(ByteChat):
    """Accepts first prompts only."""

    separate = True

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Ids:
        if len(messages) > 2:
            raise InputError("the template does not accept it")
        return super().prompt(messages, tools)


def counted(chat: ByteChat) -> Episode:
    lease = Lease(subject=1, owner="test", attempt=1)
    attempt = Attempt(environment=faulty.environment(Counting), seed=3, group="g", member=0, purpose="live", lease=lease)
    policy = ScriptedPolicy(lambda text: str(int(text) + 1), SERVING)
    [episode] = play([attempt], policy, chat, SERVING, ListJournal(), temperature=1.0, width=1, context_limit=999)
    return episode


def test_each_prompt_is_made_anew() -> None:
    separate, growing = counted(SeparateChat()), counted(ByteChat())
    assert separate.success
    assert [turn.shared for turn in separate.turns] == [0, 0, 0]
    assert [(turn.observation, turn.action) for turn in separate.turns] == [(turn.observation, turn.action) for turn in growing.turns]
    assert [turn.prompt_ids for turn in separate.turns] == [turn.prompt_ids for turn in growing.turns]  # this chat has no thoughts to drop


def test_what_the_template_does_not_accept_ends_that_episode_alone() -> None:
    episode = counted(PickyChat())
    assert (episode.state, episode.stop_reason, episode.error) == ("env_error", "error", "the template does not accept it")


@pytest.fixture
def dropping(llama: ModelFiles, tmp_path: Path) -> Iterator[Learner]:
    with create_store(tmp_path / "home") as store:
        learner = Learner(store, llama)
        learner.engine = TransformersEngine(llama, device="cpu", dtype=torch.float32, seed=0, chat=ChatSettings(thoughts="drop"))
        yield learner


def test_separate_turns_are_stored_and_learned(dropping: Learner) -> None:
    dropping.play_live(TWO, 2)
    chat, environment = dropping.engine.chat, load(TWO)
    rows = dropping.store.rows("SELECT id FROM episode WHERE state = 'completed' AND turns = 2")
    assert rows
    for row in rows:
        episode = get_episode(dropping.store, row["id"])
        said = [(turn.observation, turn.action) for turn in episode.turns]
        for n, turn in enumerate(episode.turns):
            assert turn.shared == 0
            assert turn.prompt_ids == chat.prompt(conversation(environment, said[:n], turn.observation))
        assert turns_of(episode) == tuple((turn.prompt_ids, turn.action_ids) for turn in episode.turns)
        assert lesson(episode).turns == turns_of(episode)
    assert check(dropping.store, BootClock()) == []
    assert dropping.engine.numerics.endswith(" tokens, thoughts=drop")
    version = dropping.learn(TWO, updates=1, prompts=2, samples=4, **{"from": "fresh"})
    assert version.name == "v1"


def test_demonstrations_and_hinted_episodes_are_separate_too(dropping: Learner) -> None:
    job = dropping.job([TWO], samples=4)
    chat, environment = dropping.engine.chat, job.environments.targets[0]
    shown = [("first?", "a1"), ("second?", "b2")]
    turns = tokens_of(chat, environment, shown)
    assert [prompt for prompt, _ in turns] == [chat.prompt(conversation(environment, shown[:n], shown[n][0])) for n in range(2)]
    dropping.play_live(TWO, 1)
    row = dropping.store.rows("SELECT id FROM episode WHERE state = 'completed' AND turns = 2 LIMIT 1")[0]
    episode = get_episode(dropping.store, row["id"])
    assert retold(job, environment, episode) == turns_of(episode)


def test_each_separate_turn_has_the_system_message_of_its_task(dropping: Learner, tmp_path: Path) -> None:
    job = dropping.job([TELLS], samples=4)
    chat, environment = dropping.engine.chat, job.environments.targets[0]
    shown = [("first?", "a1"), ("second?", "b2")]
    wanted = [chat.prompt(conversation(environment, shown[:n], shown[n][0], "Task 5.")) for n in range(2)]
    assert wanted[1] != chat.prompt(conversation(environment, shown[:1], shown[1][0]))
    assert [prompt for prompt, _ in tokens_of(chat, environment, shown, "Task 5.")] == wanted
    dropping.play_live(TELLS, 2)
    rows = dropping.store.rows("SELECT id FROM episode WHERE state = 'completed' AND turns = 2")
    assert rows
    for row in rows:
        episode = get_episode(dropping.store, row["id"])
        assert episode.instructions == f"Task {episode.seed}."
        said = [(turn.observation, turn.action) for turn in episode.turns]
        for n, turn in enumerate(episode.turns):
            assert turn.prompt_ids == chat.prompt(conversation(environment, said[:n], turn.observation, episode.instructions))
        assert retold(job, environment, episode) == turns_of(episode)
    elsewhere = {"environment": "elsewhere", "instructions": "Task 5.", "turns": [{"observation": o, "action": a} for o, a in shown]}
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(elsewhere | {"environment": name}) + "\n" for name in (TELLS, "elsewhere")))
    import_file(dropping.store, tmp_path / "traces.jsonl", "others")
    other, ours = (lesson.turns for lesson in foreign_lessons(job, foreign_traces(dropping.store, "others")))
    assert [prompt for prompt, _ in ours] == wanted
    said_there = [Message(role="system", text="Task 5."), Message(role="user", text="first?"), Message(role="assistant", text="a1")]
    assert other[1][0] == chat.prompt([*said_there, Message(role="user", text="second?")])
