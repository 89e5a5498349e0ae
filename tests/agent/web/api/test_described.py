"""What describes the API is true: its OpenAPI document and docs/api.md name every route, and the examples of the page work."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.web.api.asking import Asker
from tests.agent.web.servers import Server, serving

from perdure.agent.web.access import LONGEST_BODY_BYTES
from perdure.agent.web.api.answering import PREFIX
from perdure.agent.web.live import HEARTBEAT_S, KINDS, LAST_S, MOST_CLIENTS
from perdure.memory.store import open_store
from perdure.memory.trajectories.rewards import rewards_of

PAGE = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


@pytest.fixture
def described(ask: Asker) -> dict[str, Any]:
    found: dict[str, Any] = ask.get("/api/v1/openapi.json").json()
    return found


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, by_method in described["paths"].items():
        for method, operation in by_method.items():
            yield method, path.removeprefix(PREFIX), operation


def rows(header: str) -> dict[str, str]:
    """The second column of a table of the page by the first."""
    text = PAGE.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return dict(re.findall(r"^\| `?([^`|]+?)`? \| (.*) \|$", text, re.MULTILINE))


def test_the_description_has_the_api_and_nothing_else(described: dict[str, Any]) -> None:
    assert all(path.startswith(PREFIX + "/") for path in described["paths"])
    assert {method for method, _, _ in operations(described)} == {"get", "post"}


def test_the_page_names_every_read(described: dict[str, Any]) -> None:
    found = {path: operation for method, path, operation in operations(described) if method == "get"}
    named = rows("read | what it tells")
    assert named.keys() == found.keys()
    for path, operation in found.items():
        shared = {"number", "name", "other", "limit", "before", "after", "episodes", "turns", "lines", "errors"}
        for parameter in {one["name"] for one in operation["parameters"]} - shared if "parameters" in operation else ():
            assert f"`{parameter}`" in named[path], f"{path}: {parameter}"


def test_the_page_names_every_change_with_its_body(described: dict[str, Any]) -> None:
    found = {path: operation for method, path, operation in operations(described) if method == "post"}
    named = rows("change | body; what is in brackets may be left out")
    assert named.keys() == found.keys()
    for path, operation in found.items():
        schema = described["components"]["schemas"][
            operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        ]
        needed = set(schema.get("required", ()))
        may = schema["properties"].keys() - needed - {"by", "reason"}
        must, _, optional = named[path].partition("[")
        assert set(re.findall(r"`(\w+)`", must)) == needed, path
        assert set(re.findall(r"`(\w+)`", optional)) == may, path


def test_every_operation_says_what_it_does_and_how_it_fails(described: dict[str, Any]) -> None:
    for method, path, operation in operations(described):
        assert operation["description"], path
        assert operation["security"] == [{"HTTPBearer": []}], path
        wanted = {"200", "400", "401", "403", "422", "503"} | ({"404", "409", "413"} if method == "post" else set())
        assert wanted <= operation["responses"].keys(), path
        for status, response in operation["responses"].items():
            if status != "200":
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}, path
    said = rows("status | when")
    declared = {status for _, _, operation in operations(described) for status in operation["responses"]}
    assert said.keys() == declared - {"200"}


def test_the_numbers_of_the_page() -> None:
    for text in (
        f"longer than {LONGEST_BODY_BYTES // 1024} KiB",
        f"every {HEARTBEAT_S:.0f} seconds",
        f"after {LAST_S / 60:.0f} minutes",
        f"At most {MOST_CLIENTS} clients",
        ", ".join(KINDS),
    ):
        assert text in PAGE.replace("\n", " "), text


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with serving(home) as server:
        yield server


@pytest.mark.processes
def test_the_examples_of_the_page_work(server: Server) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    told = []
    for block in blocks:
        assert "8377" in block
        done = subprocess.run(
            ["bash", "-c", block.replace("8377", str(server.port))],
            cwd=server.home.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 28), done.stderr  # 28: curl's own time is over
        told.append(done.stdout)
    assert '"serving": "v1"' in told[0]
    assert '"id": 7' in told[0]
    assert told[1].startswith('[{"what": "learning", "reason": "the machine is needed until six"')
    assert told[1].endswith("][]")
    assert 'data: {"kinds": ["episode", "job", "version", "event", "pause", "study"]}' in told[2]
    with open_store(server.home) as store:
        assert rewards_of(store, 1) == {"anna": 0.5}
