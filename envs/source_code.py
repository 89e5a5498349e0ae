"""What the code of an environment is, as a short text that changes when the code does: kept with its episodes and beside its anchor.

    a class or function of your own        16 digits of a sha256 over the file of its module, and over the files that this imports from the
                                           same folder or package, directly or through each other
    one of an installed package            the package and its version, as in 'textarena 0.7.4'
    one behind a server                    empty: not known

What is imported is read from the import statements, also from those inside functions. Not covered: data files, other packages, and modules
that are imported by a computed name.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from perdure.memory.errors import Unavailable

DIGITS = 16
MOST_FILES = 2000
"""Of one environment; the rest is not covered."""

INSTALLED = {"site-packages", "dist-packages"}

_seen: WeakKeyDictionary[ModuleType, dict[tuple[str, ...], str]] = WeakKeyDictionary()
"""The code of modules when this process first looked at them: as it has imported them."""


def code_of(*modules: str) -> str:
    """The code of an environment that comes from these imported modules; empty if nothing is known of them.

    Raises `Unavailable` if the files have changed since this process imported them: it would play what it does not say.
    """
    code = ", ".join(dict.fromkeys(part for part in _parts(modules) if part))
    first = sys.modules.get(modules[0])
    if first is not None and _seen.setdefault(first, {}).setdefault(modules, code) != code:
        raise Unavailable(f"the code of {modules[0]} has changed since this process imported it: it takes effect in a new process")
    return code


def code_of_folder(module: str, folder: Path) -> str:
    """The same of a module of ours: the files of this folder count, whatever the version of the package."""
    return _digest(_covered(module, folder))


def version_of(distribution: str) -> str:
    """An installed package with its version; empty if it is not installed."""
    try:
        return f"{distribution} {version(distribution)}" if distribution else ""
    except PackageNotFoundError:
        return ""


def _parts(modules: tuple[str, ...]) -> Iterator[str]:
    own: dict[str, bytes] = {}
    for name in dict.fromkeys(modules):
        file = _file_of(name)
        if file is None:
            continue
        if not INSTALLED.isdisjoint(file.parts):
            top = name.partition(".")[0]
            yield version_of(top) or _digest(_covered(name, _root(name, file) / top))
        elif not file.is_relative_to(sysconfig.get_paths()["stdlib"]):
            own |= _covered(name, None)
    if own:
        yield _digest(own)


def _covered(module: str, folder: Path | None) -> dict[str, bytes]:
    """The files that a module consists of, by name from the folder of its package: its own and those that it imports.

    Those under `folder` only; None: under the folder that has the module or its package.
    """
    start = _file_of(module)
    if start is None:
        return {}
    root = _root(module, start)
    found: dict[str, bytes] = {}
    waiting = [(module, start)]
    while waiting and len(found) < MOST_FILES:
        name, file = waiting.pop()
        key = str(file.relative_to(root)) if file.is_relative_to(root) else file.name
        if key in found:
            continue
        try:
            found[key] = file.read_bytes()
        except OSError:
            continue
        for imported in _imports(name, file, found[key]):
            there = _found(root, imported)
            if there is not None and there.is_relative_to(folder or root):
                waiting.append((imported, there))
    return found


def _imports(module: str, file: Path, source: bytes) -> Iterator[str]:
    """The modules that a file may import; of `from a import b`, also `a.b`."""
    try:
        tree = ast.parse(source) if file.suffix == ".py" else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError):
        return
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{name.name}".lstrip(".") for name in node.names))


def _found(root: Path, module: str) -> Path | None:
    """The file of a module under this folder."""
    place = root.joinpath(*module.split("."))
    return next((file for file in (place.with_name(f"{place.name}.py"), place / "__init__.py") if module and file.is_file()), None)


def _root(module: str, file: Path) -> Path:
    """The folder that has the module, or the package that it belongs to."""
    above = module.count(".") + (file.name == "__init__.py")
    return file.parents[min(above, len(file.parents) - 1)]


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).absolute() if isinstance(file, str) else None


def _digest(files: dict[str, bytes]) -> str:
    """Over the names and contents of the files; empty without files."""
    digest = sha256()
    for name, content in sorted(files.items()):
        digest.update(b"%b\0%d\0%b" % (name.encode("utf-8", "surrogateescape"), len(content), content))
    return digest.hexdigest()[:DIGITS] if files else ""
