"""The global random generators, Python's and NumPy's, lent to one environment: what it draws depends on its own seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

_START = random.Random(0).getstate()


class Generators:
    """A state of the global generators that belongs to one environment.

    NumPy's is left alone with `numpy=False`: exchanging it takes ten times as long as Python's.
    """

    def __init__(self, numpy: bool = True) -> None:
        self._with_numpy = numpy
        self._python: Any = _START
        self._numpy: Any = np.random.RandomState(0).get_state() if numpy else None

    def seed(self, number: int) -> None:
        self._python = random.Random(number).getstate()
        self._numpy = np.random.RandomState(number % 2**32).get_state() if self._with_numpy else None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the global generators go on from this state; afterwards they are as they were."""
        python = random.getstate()
        random.setstate(self._python)
        try:
            with self._numpy_in_use() if self._with_numpy else nullcontext():
                yield
        finally:
            self._python = random.getstate()
            random.setstate(python)

    @contextmanager
    def _numpy_in_use(self) -> Iterator[None]:
        numpy = np.random.get_state()
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._numpy = np.random.get_state()
            np.random.set_state(numpy)
