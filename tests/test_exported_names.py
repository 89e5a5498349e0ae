"""What users import from `perdure`, and that importing it costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import perdure
from perdure.envs.environment import AnyText

ROOT = Path(__file__).resolve().parents[1]

EXPORTED = [
    "AnyText",
    "Attempt",
    "Chat",
    "Ending",
    "Environment",
    "Episode",
    "EpisodePlan",
    "InputError",
    "Journal",
    "Lease",
    "Message",
    "PerdureError",
    "Policy",
    "PolicyError",
    "Request",
    "RuntimeFailure",
    "Sample",
    "Sampler",
    "Store",
    "TextEnv",
    "Turn",
    "UnknownError",
    "VersionRef",
    "__version__",
    "load",
    "open_store",
    "play",
    "split_by_content",
    "split_of",
]


def test_exported_names() -> None:
    """One that goes or is renamed breaks the code of users: say so in CHANGELOG.md."""
    assert perdure.__all__ == EXPORTED
    assert dir(perdure) == sorted(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_name_can_be_had(name: str) -> None:
    thing = getattr(perdure, name)
    assert getattr(thing, "__name__", name) in (name, "Env")  # `TextEnv` is an alias of gymnasium's Env


def test_an_exported_name_is_that_of_its_module() -> None:
    assert perdure.AnyText is AnyText


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'perdure' has no attribute 'AnyTxt'"):
        getattr(perdure, "AnyTxt")  # noqa: B009 - mypy refuses `perdure.AnyTxt`, as it should


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.processes
def test_importing_loads_nothing_but_the_standard_library() -> None:
    loaded = run("import sys; import perdure; print(*{name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))")
    before = run("import sys; print(*{name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))")
    assert set(loaded.split()) - set(before.split()) == {"perdure"}


@pytest.mark.processes
def test_importing_loads_no_module_of_perdure() -> None:
    assert run("import sys; import perdure; print(*[name for name in sys.modules if name.startswith('perdure.')])") == ""


@pytest.mark.processes
def test_no_exported_name_loads_torch() -> None:
    assert (
        run("import sys; from perdure import *; print('gymnasium' in sys.modules, *{'torch', 'transformers'} & set(sys.modules))") == "True"
    )


SCRIPT = """
from perdure import Attempt, Lease, Sample, VersionRef, load, play

ME = VersionRef("script")


class Letters:
    separate = False

    def prompt(self, messages):
        return tuple(map(ord, messages[-1].text))

    def follow(self, prompt_ids, action_ids, observation):
        return (*prompt_ids, *action_ids, *map(ord, observation))

    def text(self, action_ids):
        return "".join(map(chr, action_ids))

    def answer(self, text):
        return tuple(map(ord, text))


class Adds:
    def generate(self, requests):
        sums = [str(sum(map(int, "".join(map(chr, request.prompt_ids)).split(" + ")))) for request in requests]
        return [Sample(action_ids=tuple(map(ord, text)), logprobs=(0.0,) * len(text), finish="stop", sampler=ME) for text in sums]


class Forgets:
    def start(self, plans):
        return list(range(len(plans)))

    def turns(self, entries):
        pass

    def finish(self, endings):
        pass


environment = load("perdure:add")
lease = Lease(subject=1, owner="script", attempt=1)
attempts = [Attempt(environment=environment, seed=n, group=str(n), member=0, purpose="probe", lease=lease) for n in range(3)]
episodes = play(attempts, Adds(), Letters(), ME, Forgets(), temperature=1.0, width=3, context_limit=99)
print(*[episode.success for episode in episodes])
"""


@pytest.mark.processes
def test_the_exported_names_are_enough_to_play_in_a_script() -> None:
    assert run(SCRIPT) == "True True True"


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
DEEP_IMPORT = re.compile(r"(?:from|import) perdure\.\w+")


def test_no_page_imports_from_a_deeper_path() -> None:
    deep = [f"{page.name}: {line}" for page in PAGES for line in page.read_text().splitlines() if DEEP_IMPORT.search(line)]
    assert deep == []
    assert DEEP_IMPORT.search("from perdure.envs.environment import AnyText")
