"""A player with a model of its own: which version it plays with, which files it has, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.agent.cluster.head_place import Head, head_in, journal_here, player_here
from tests.tiny_models import tiny_llama

from perdure.agent.cluster.playing.remote_player import PlayerParts
from perdure.agent.config import Config
from perdure.learners.option_parsing import parse_options
from perdure.learners.trainees.trainee import open_trainee
from perdure.learners.weights.adapters import write_version, write_weights
from perdure.learners.weights.base_models import resolve_model
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.environments import register
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.files import MANIFEST
from perdure.memory.store import open_store
from perdure.memory.tasks import add_tasks
from perdure.memory.trajectories.episodes import get_episode, list_episodes
from perdure.memory.versions import add_candidate, get_version, promote

COIN = "py:tests.agent.coin:Coin"


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """A head whose serving version is v1, an adapter with an effect; the journal is in this process."""
    monkeypatch.setenv("PERDURE_CACHE", str(tmp_path / "cache"))
    files = resolve_model(str(tiny_llama(tmp_path / "model")), tmp_path, print)
    with head_in(tmp_path, files.hash) as head:
        with open_store(head.home) as store:
            register(store, COIN)
            trainee = open_trainee(files, device="cpu", dtype=torch.float32, options=parse_options("grpo", {"rank": 2, "alpha": 4}))
            torch.manual_seed(0)
            weights: dict[str, Any] = {
                name: replace(pair, up_OR=torch.randn_like(pair.up_OR)) if isinstance(pair, LoraPair) else pair
                for name, pair in trainee.weights().items()
            }
            path, hash_ = write_version(head.home, "v1", files, lambda folder: write_weights(folder, weights, files))
            add_candidate(store, None, "v1", "v0", hash_, path, [COIN], None)
            promote(store, "v1", "a test wants it")
            add_tasks(store, COIN, [3, 4], 2, "stream")
        with journal_here(head):
            yield head


def settings(head: Head, **other: Any) -> Config:
    given = {"model": str(head.path / "model"), "play": {"width": 4, "members": 2}, "sandbox": {"trusted": [COIN]}, **other}
    return Config.model_validate(given)


def test_a_player_fetches_the_version_that_serves_once_and_plays_as_it(head: Head) -> None:
    with player_here(head, settings(head), PlayerParts()):
        head.wait("the tasks", lambda: head.tasks("done") == 2)
    with open_store(head.home) as store:
        hash_ = get_version(store, "v1").hash
        played = [get_episode(store, entry.id) for entry in list_episodes(store)]
        source = head.home / str(get_version(store, "v1").path)
    assert {str(turn.sampler) for one in played for turn in one.turns} == {"v1"}
    fetched = head.path / "cache" / "versions" / hash_
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == {file.name: file.read_bytes() for file in source.iterdir()}
    (source / MANIFEST).unlink()  # another player of this node has it already
    with open_store(head.home) as store:
        add_tasks(store, COIN, [5], 2, "stream")
    with player_here(head, settings(head), PlayerParts()):
        head.wait("the task", lambda: head.tasks("done") == 3)


def test_files_that_are_not_those_of_the_version_are_not_played_with(head: Head) -> None:
    with open_store(head.home) as store:
        folder = head.home / str(get_version(store, "v1").path)
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    assert "was changed or damaged" in why_it_ends(head, settings(head), RuntimeFailure)
    assert not list((head.path / "cache" / "versions").iterdir())
    assert head.ask("SELECT count(*) FROM episode") == 0


def test_another_model_and_another_engine_are_refused_with_a_sentence(head: Head) -> None:
    other = tiny_llama(head.path / "other", seed=5)
    assert "has the hash" in why_it_ends(head, settings(head, model=str(other)), InputError)
    assert "players elsewhere sample with transformers only" in why_it_ends(head, settings(head, engine="vllm"), InputError)
    assert head.tasks("queued") == 2


def why_it_ends(head: Head, chosen: Config, kind: type[Exception]) -> str:
    """What ends a player by itself."""
    with pytest.raises(kind) as error, player_here(head, chosen, PlayerParts()) as player:
        head.wait("its end", player.ended.is_set)
    return str(error.value)
