"""Files that people write in TOML: the configuration, and studies."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from perdure.memory.errors import InputError


def read_toml(path: Path, what: str, *, missing: str) -> dict[str, Any]:
    """What stands in a file. Raises `InputError` that names it, and what to do: `missing` if there is none."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"no {what} {path}: {missing}") from None
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a {what}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the {what} {path} is not TOML: {error}") from error
