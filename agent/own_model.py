"""Whether a configuration names the model of a home, found out before anything is written there.

A home belongs to one model for good. A configuration of another folder, found by chance, must not leave its environments and tasks behind.
Left out: fetching and loading models (`learners/weights/base_models.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.agent.config import Config
from perdure.agent.home import cache_dir
from perdure.memory.errors import InputError
from perdure.memory.store import FILE_NAME, Store, open_store
from perdure.memory.versions import INITIAL, base_of, refused_model

if TYPE_CHECKING:
    from perdure.envs.environment import Environment


def require_own_model(store: Store, config: Config) -> None:
    """Raise `InputError` if the versions of this home belong to another model than the configured one.

    A model that has the name of the home's, and is not on this machine, is compared once it is fetched.
    """
    if not store.rows("SELECT 1 FROM version WHERE name = ?", (INITIAL,)):
        return
    from perdure.learners.weights.base_models import find_model

    name, digest = base_of(store, INITIAL)
    found = find_model(config.model, cache_dir(), store.home)
    if found.hash != digest if found is not None else config.model != name:
        raise refused_model(store, config.model, found.hash if found is not None else None)


def require_model_of(home: Path, config: Config) -> None:
    """The same for a home that may not exist yet."""
    if (home / FILE_NAME).exists():
        with open_store(home) as store:
            require_own_model(store, config)


def require_room(config: Config, environments: Iterable[Environment], *, with_prompt: bool = False) -> None:
    """Raise `InputError` if an answer in one of these has no room in the context of the model, if that is on this machine.

    `with_prompt`: nor together with the first prompt of a training seed, which each is asked for.
    """
    from perdure.learners.weights.base_models import model_folder

    folder = model_folder(config.model, cache_dir())
    limit = _context_of(folder) if folder is not None else None
    if folder is None or limit is None:
        return
    for environment in environments:
        prompt = _first_prompt_tokens(environment, folder) if with_prompt else 0
        if prompt + environment.max_tokens > limit:
            first = f"its first prompt has about {prompt} tokens, and " if prompt else ""
            raise InputError(
                f"{environment.name} does not fit into the context of {config.model}, {limit} tokens: {first}its answers may have "
                f"{environment.max_tokens}; give fewer shots or a smaller max_tokens in its name, or a model with a longer context"
            )


def _context_of(folder: Path) -> int | None:
    try:
        config = json.loads((folder / "config.json").read_text())
        limit = config.get("text_config", config).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return limit if isinstance(limit, int) else None


def _first_prompt_tokens(environment: Environment, folder: Path) -> int:
    """About how many; 0 if it cannot be known without loading the model, or if the environment fails, which is told elsewhere."""
    from perdure.envs.guarded import EnvironmentFault, open_episode
    from perdure.envs.seeds import SPLITS
    from perdure.learners.weights.base_models import ModelFiles
    from perdure.learners.weights.token_count import length_of

    length = length_of(ModelFiles(name=str(folder), path=folder, hash=""))
    if not length.exact:
        return 0
    game = open_episode(environment)
    try:
        observation = environment.first_message(game.reset(SPLITS["train"][0]))
        instructions = environment.instructions if game.instructions is None else game.instructions
    except EnvironmentFault:
        return 0
    finally:
        game.close()
    return length.tokens([text for text in (instructions, observation) if text])
