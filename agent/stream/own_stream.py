"""Whether the default stream may enter a home: it does not enter one whose own configuration has named other environments.

The configuration is looked for in the working folder. A command in another folder finds none, and would add the default environments to the
home for good: each learning job would replay them, and each gate would play them.
"""

from __future__ import annotations

from pathlib import Path

from perdure.agent.config_file import DEFAULT, STAGES, LoadedConfig
from perdure.agent.stream.stream_settings import DEFAULT_ENVIRONMENTS, default_environments
from perdure.memory.environments import environments_in_use
from perdure.memory.errors import InputError
from perdure.memory.stages import list_stages
from perdure.memory.store import FILE_NAME, Store, open_store

SHOWN = 3


def names_no_stream(loaded: LoadedConfig) -> bool:
    """Whether the environments of the stream are the default ones because nothing else was said."""
    said = {loaded.origins.get(key, DEFAULT) for key in ("stream.environments", STAGES)}
    return said == {DEFAULT} and loaded.config.stream.names == default_environments()


def require_own_stream(store: Store, loaded: LoadedConfig) -> None:
    """Raise `InputError` if a daemon of this home had environments of its own to play, and this configuration names none."""
    if not names_no_stream(loaded):
        return
    own = [share.name for stage in list_stages(store) for share in stage.environments if share.name not in DEFAULT_ENVIRONMENTS]
    if own:
        more = ", ..." if len(own) > SHOWN else ""
        raise InputError(
            f"the configuration of {store.home} named its own environments ({', '.join(own[:SHOWN])}{more}), and here none names any: "
            "name that file with --config, or name the environments to play under [stream]"
        )


def own_stream(home: Path, loaded: LoadedConfig) -> list[str] | None:
    """The environments to choose from in place of the default ones: those of a home that has its own, if the configuration names none.

    None: those of the configuration.
    """
    if not names_no_stream(loaded) or not (home / FILE_NAME).exists():
        return None
    with open_store(home, reading=True) as store:
        known = [row.name for row in environments_in_use(store)]
        streamed = [share.name for stage in list_stages(store) for share in stage.environments]
    return streamed or known if any(name not in DEFAULT_ENVIRONMENTS for name in known) else None
