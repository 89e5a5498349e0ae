"""A tiny model for benchmarks that sample or learn."""

from __future__ import annotations

import pytest
from tests.tiny_models import sharpen, tiny_llama

from perdure.learners.weights.base_models import ModelFiles, resolve_model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("models") / "llama"
    return resolve_model(str(sharpen(tiny_llama(folder, context=256), 1)), folder, print)
