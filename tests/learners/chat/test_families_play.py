"""Each family with its own layers, template and kind of tokenizer: it plays, learns by one update of grpo and one of sft, and serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.families import SHORT, family
from tests.learners.chat.families import family_tokenizer
from tests.learners.chat.said import of_template, scaffolding
from tests.learners.home import EASY, Learner
from transformers import AutoTokenizer

from perdure.envs.registry import load_here as load
from perdure.envs.rollout import conversation
from perdure.learners.chat.chat_settings import ChatSettings, Thoughts
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.weights.base_models import resolve_model
from perdure.learners.weights.check_texts import text_comparison
from perdure.memory.layout.blobs import pack_ids
from perdure.memory.leases import BootClock
from perdure.memory.store import create_store
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.upkeep.integrity import check

LAYERS = {"gemma-3": "gemma-3-1b", "granite-4": "granite-4-micro", "ministral": "ministral-3"}
TWO = f"{EASY}?letters=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ&rounds=2"
LUCK = "py:tests.learners.chat.luck:Luck"
NAMES = (
    *("smollm2", "smollm3", "llama-3.2", "qwen2.5", "qwen3", "qwen3.5", "gemma-3", "mistral", "ministral", "phi-4-mini", "granite-4"),
    "gpt-oss",
)


@pytest.mark.learning
@pytest.mark.parametrize("thoughts", ["keep", "drop"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if LAYERS.get(name, name) in SHORT else [pytest.mark.long]) for name in NAMES]
)
def test_a_family_plays_learns_and_serves_by_its_own_template(name: str, thoughts: Thoughts, tmp_path: Path) -> None:
    folder = family(LAYERS.get(name, name), tmp_path / "model", tokenizer=family_tokenizer(name))
    tokenizer = AutoTokenizer.from_pretrained(folder)  # of the family's own class, if transformers has one
    files = resolve_model(str(folder), folder, print)
    with create_store(tmp_path / "home") as store:
        learner = Learner(store, files)
        learner.engine = TransformersEngine(files, device="cpu", dtype=torch.float32, seed=0, chat=ChatSettings(thoughts=thoughts))
        chat = learner.engine.chat
        learner.play_live(LUCK, 1)
        compare, environment = text_comparison(files), load(LUCK)
        played = [get_episode(store, row["id"]) for row in store.rows("SELECT id FROM episode WHERE state = 'completed'")]
        assert len(played) == 8
        for episode in played:
            said = [(turn.observation, turn.action) for turn in episode.turns]
            for n, turn in enumerate(episode.turns):
                before = episode.turns[n - 1]
                if n and thoughts == "keep":
                    assert turn.prompt_ids == chat.follow(before.prompt_ids, before.action_ids, turn.observation)
                else:
                    messages = conversation(environment, said[:n], turn.observation)
                    calm = [replace(message, text=message.text.replace("<|im_end|>", "control")) for message in messages]
                    told = [*chat.prompt(calm)]
                    assert told == of_template(chat, tokenizer, calm)
                    assert scaffolding(chat, turn.prompt_ids) == scaffolding(chat, told)
                assert compare(pack_ids(turn.action_ids), turn.action.encode()) is None
        assert check(store, BootClock()) == []
        learner.learn(LUCK, updates=1, prompts=2, samples=8, **{"from": "fresh"})
        learner.learn(TWO, "sft", updates=1, prompts=2)
        assert learner.success("v2", TWO, 4) >= 0
