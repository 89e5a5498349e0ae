"""The global random generators, lent to one environment at a time.

Some packages seed and draw from Python's global `random` and from NumPy's. Each of their environments gets states of its own here, so that
it neither disturbs others nor is disturbed by them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Generators:
    """A state of the global random generators (Python's and NumPy's) that belongs to one environment."""

    def __init__(self) -> None:
        self._python: Any = random.Random(0).getstate()
        self._numpy: Any = np.random.RandomState(0).get_state()

    def seed(self, number: int) -> None:
        self._python = random.Random(number).getstate()
        self._numpy = np.random.RandomState(number % 2**32).get_state()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside the block the global generators are this environment's; after it they are again as they were."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)
