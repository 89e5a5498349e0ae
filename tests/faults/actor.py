"""An actor with a scripted model, for speed: `python -m tests.faults.actor --home DIR --config FILE`. All else in it is the real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.fakes import ByteChat
from tests.faults.acknowledged import acknowledging
from tests.faults.arming import take_fault
from tests.faults.number_policy import PAUSE_S, NumberPolicy

from perdure.agent.config import Config
from perdure.agent.home import cache_dir
from perdure.agent.processes.actor import main, store_journal
from perdure.agent.processes.live_shift import Model
from perdure.envs.policy import Policy
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.records import VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import add_initial


class ScriptedModel:
    """A model of no weights that every version plays with."""

    chat = ByteChat()
    context_limit = 100_000

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s

    def load(self, version: str) -> Policy:
        return NumberPolicy(VersionRef(version), self._pause_s)

    def opponent(self, version: str) -> Policy:
        return self.load(version)


def open_scripted(store: Store, config: Config, say: Callable[[str], None], pause_s: float = PAUSE_S) -> Model:
    """The base model's files are looked at, as they name the first version, and not loaded."""
    files = resolve_model(config.model, cache_dir(), say)
    add_initial(store, files.name, files.hash)
    return ScriptedModel(pause_s)


if __name__ == "__main__":
    take_fault(Path(sys.argv[sys.argv.index("--home") + 1]), "actor")
    raise SystemExit(main(open_scripted, lambda store: acknowledging(store_journal(store), store)))
