"""The home that a request is about: its store is opened for as long as one read or one write takes, and closed again.

Routes are plain functions, which run in a pool of threads; a connection belongs to the thread that opened it, so it is opened inside of
them. An open reader keeps the log of the database from being reset: fetch all rows, close, and only then render.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from perdure.agent.config_file import LoadedConfig
from perdure.memory.errors import InputError, RuntimeFailure, Unavailable
from perdure.memory.store import FILE_NAME, Store, open_store, set_busy_timeout

BUSY_MS = 4000


class NoStoreYet(Unavailable):
    """Nothing has run in the home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedHome:
    """The home that is served, and the configuration that new work is prepared by."""

    path: Path
    loaded: LoadedConfig
    busy_ms: int = BUSY_MS
    """How long a write waits for others before the answer is that the store is busy."""

    @property
    def studies(self) -> Path:
        """The folder whose studies are shown."""
        return Path(self.loaded.config.web.studies).expanduser().absolute()

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """A store that can be read, whether or not it can be written.

        Raises `NoStoreYet` if there is none, `Unavailable` if this user cannot read it, and `RuntimeFailure` if it is none of ours.
        """
        with self._opened(reading=True) as store:
            yield store

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """A store that can be written, which waits for other writers only as long as a person would. Raises as `reading` does."""
        with self._opened(reading=False) as store:
            set_busy_timeout(store, self.busy_ms)
            yield store

    def _opened(self, *, reading: bool) -> Store:
        try:
            (self.path / FILE_NAME).stat()
        except FileNotFoundError as error:
            raise NoStoreYet(f"nothing has run in {self.path} yet: `perdure run` makes its store, and this page then shows it") from error
        except OSError as error:
            raise Unavailable(f"cannot read the home {self.path}: {error.strerror}; serve it as the user whose home it is") from error
        try:
            return open_store(self.path, reading=reading)
        except InputError as error:  # what is wrong is the home, not the request
            raise RuntimeFailure(str(error)) from error


async def _served_home(request: Request) -> ServedHome:
    home = request.app.state.home
    assert isinstance(home, ServedHome)
    return home


AtHome = Annotated[ServedHome, Depends(_served_home)]
"""The parameter of a route by which it gets the home."""
