"""States of the global random generators, Python's and NumPy's, for one environment: its draws depend on its own seed alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

_START = random.Random(0).getstate()


class Generators:
    """A state of the global generators for one environment. Inside the context it is in use; afterwards the earlier state is restored.

    `numpy=False` leaves out NumPy's generator: exchanging its state takes ten times as long as Python's.
    """

    def __init__(self, numpy: bool = True) -> None:
        self._python: Any = _START
        self._numpy: Any = np.random.RandomState(0).get_state() if numpy else None
        self._others: tuple[Any, Any] = (None, None)
        self._seed: int | None = None

    def seed(self, number: int) -> None:
        """Seed the generators with this number when they are used next."""
        self._seed = number

    def __enter__(self) -> None:
        self._others = random.getstate(), None if self._numpy is None else np.random.get_state()
        if self._seed is None:
            random.setstate(self._python)
            if self._numpy is not None:
                np.random.set_state(self._numpy)
        else:
            random.seed(self._seed)
            if self._numpy is not None:
                np.random.seed(self._seed % 2**32)
            self._seed = None

    def __exit__(self, *exc: object) -> None:
        self._python = random.getstate()
        random.setstate(self._others[0])
        if self._numpy is not None:
            self._numpy = np.random.get_state()
            np.random.set_state(self._others[1])
