"""The global random generators, Python's and NumPy's, lent to one environment: what it draws depends on its own seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Generators:
    """A state of the global generators that belongs to one environment."""

    def __init__(self) -> None:
        self._python: Any = random.Random(0).getstate()
        self._numpy: Any = np.random.RandomState(0).get_state()

    def seed(self, number: int) -> None:
        self._python = random.Random(number).getstate()
        self._numpy = np.random.RandomState(number % 2**32).get_state()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the global generators go on from this state; afterwards they are as they were."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)
