"""Settings, versions, errors of Ray and the report of a cluster, in words. Needs no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.agent.cluster.cluster_packages import require_cluster
from perdure.agent.cluster.cluster_report import cluster_report
from perdure.agent.cluster.cluster_settings import ClusterSection, check_address
from perdure.agent.cluster.cluster_token import cluster_token, cluster_token_path
from perdure.agent.cluster.node_versions import other_version, versions_here
from perdure.agent.cluster.on_ray.ray_environment import ray_environment
from perdure.agent.cluster.on_ray.ray_errors import in_one_line, is_of_node, is_passing, why_not_joined
from perdure.agent.cluster.player_orders import player_order
from perdure.agent.cluster.playing.player_order import read_order
from perdure.agent.config_file import CLUSTER_VARIABLE, load_config
from perdure.memory.errors import InputError, Unavailable
from perdure.memory.processes import Process

HERE = {"perdure": "0.4.0", "ray": "2.60.0", "python": "3.11.7"}


@pytest.mark.parametrize("address", ["", "local", "auto", "10.0.0.1:6379", "head.example:6379", "[::1]:6379"])
def test_addresses_that_are_taken(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize("address", ["10.0.0.1", "head:0", "head:65536", "ray://head:10001", "local:", "a b:1", "head:6379/x"])
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is neither 'local', nor 'auto', nor HOST:PORT"):
        check_address(address)


def test_players_without_a_cluster_are_refused() -> None:
    with pytest.raises(InputError, match=r"cluster\.players is set and cluster\.address is empty"):
        require_cluster(ClusterSection(players=2))
    require_cluster(ClusterSection())


@pytest.mark.processes
@pytest.mark.parametrize("command", ["run", "study run mode-seeking"])
def test_without_ray_the_command_says_what_to_install(tmp_path: Path, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ray'] = None")  # as if it were not installed
    done = subprocess.run(
        [sys.executable, "-m", "perdure", *command.split(), "--cluster", "local"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "needs ray" in line
    assert "pip install 'perdure[cluster]'" in line
    assert not (tmp_path / ".perdure").exists()


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (0.5, "cuda")])
def test_a_player_with_a_gpu_computes_there_though_the_head_has_none(tmp_path: Path, gpus: float, device: str) -> None:
    loaded = load_config(None)
    cluster = loaded.config.cluster.model_copy(update={"player_gpus": gpus})
    order = read_order(player_order(tmp_path, loaded.with_config(loaded.config.model_copy(update={"cluster": cluster})), "p"))
    assert (order.settings.device, loaded.config.device) == (device, "cpu")


def test_the_option_of_a_run_replaces_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "perdure.toml"
    file.write_text("[cluster]\nplayers = 5\n")
    monkeypatch.chdir(tmp_path / "..")
    monkeypatch.setenv(CLUSTER_VARIABLE, "local")
    loaded = load_config(file)
    assert (loaded.config.cluster.address, loaded.config.cluster.players) == ("local", 5)
    assert (loaded.origins["cluster.address"], loaded.origins["cluster.players"]) == ("--cluster", "perdure.toml")
    file.write_text("")
    assert load_config(file).config.cluster.players == 2
    monkeypatch.setenv(CLUSTER_VARIABLE, "nowhere")
    with pytest.raises(InputError, match="--cluster: 'nowhere' is neither"):
        load_config(file)


def test_the_token_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    cluster = ClusterSection()
    token = cluster_token(tmp_path, cluster)
    path = cluster_token_path(tmp_path, cluster)
    assert (path, path.stat().st_mode & 0o777) == (tmp_path / "run" / "cluster-token", 0o600)
    assert len(token) >= 32
    assert cluster_token(tmp_path, cluster) == token
    path.chmod(0o644)
    with pytest.raises(InputError, match="others can read the token file"):
        cluster_token(tmp_path, cluster)


def test_ray_asks_for_the_token_and_sends_nothing_unless_someone_chose_otherwise(tmp_path: Path) -> None:
    set_here = ray_environment(tmp_path, ClusterSection(), {})
    assert set_here["RAY_AUTH_MODE"] == "token"
    assert set_here["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "run" / "cluster-token")
    assert set_here["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray_environment(tmp_path, ClusterSection(), {"RAY_AUTH_MODE": "disabled"})["RAY_AUTH_MODE"] == "disabled"


def test_another_version_is_named_with_the_head_s() -> None:
    assert other_version("b", HERE, HERE) is None
    why = other_version("b", {**HERE, "perdure": "0.3.0"}, HERE)
    assert why == "node b has Perdure 0.3.0 and the head has 0.4.0: install the same version on both"
    assert "Python 3.12.1 and the head has 3.11.7" in (other_version("b", {**HERE, "python": "3.12.1"}, HERE) or "")
    assert set(versions_here()) == set(HERE)


class ActorDiedError(Exception):
    """As Ray's is called."""


class ActorUnavailableError(Exception):
    """As Ray's is called."""


class ObjectStoreFullError(Exception):
    """As Ray's is called."""


def test_errors_of_ray_become_one_line() -> None:
    full = in_one_line(ObjectStoreFullError("The object cannot be created because\nthe object store is full"))
    assert full.startswith("the object store of the cluster is full: ")
    died = ActorDiedError("The actor died unexpectedly before finishing this task. The node died.")
    assert (in_one_line(died), is_of_node(died), is_passing(died)) == ("its node died", True, False)
    absent = ActorDiedError("The actor failed to import\nModuleNotFoundError: No module named 'perdure'")
    assert in_one_line(absent).startswith(f"its node has no Perdure {versions_here()['perdure']} (No module named 'perdure')")
    assert not is_of_node(absent)
    assert is_passing(ActorUnavailableError("The actor is unavailable"))
    assert in_one_line(InputError("the model is missing")) == "the model is missing"


def test_what_keeps_from_joining_is_told_with_the_remedy() -> None:
    mismatch = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.11.7\n"
        "This process on 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    found = why_not_joined(mismatch, "10.0.0.1:6379")
    assert isinstance(found, InputError)
    assert str(found) == "the cluster at 10.0.0.1:6379 has Ray 2.50.0, and here is 2.60.0: install the same on all nodes"
    token = why_not_joined(RuntimeError("Unauthenticated: InvalidAuthToken"), "10.0.0.1:6379")
    assert isinstance(token, InputError)
    assert "has another token" in str(token)
    no_node = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    no_node.__cause__ = RuntimeError("No node info found matching attributes: '10.0.0.9' when trying to resolve node to connect to.")
    assert str(why_not_joined(no_node, "10.0.0.1:6379")).startswith("this machine is no node of the cluster at 10.0.0.1:6379: `ray start")
    silent = why_not_joined(ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379"), "10.0.0.1:6379")
    assert isinstance(silent, Unavailable)
    assert str(why_not_joined(ValueError("odd"), "h:1")) == "the cluster at h:1 cannot be joined: ValueError: odd"


def test_the_report_names_the_players_elsewhere_in_order() -> None:
    def process(name: str, state: str, detail: str | None) -> Process:
        return Process(name=name, pid=1, state=state, detail=detail, beat=0.0, started=0.0)

    known = [
        process("cluster", "waiting", "127.0.0.2:1, 2 nodes; players: 1 of 2 run"),
        process("player-10", "waiting", "asks for 1 GPU; 0 of 2 nodes have one"),
        process("player-2", "running", "on a"),
        process("actor", "playing", None),
    ]
    report = cluster_report({one.name: one for one in known})
    assert report is not None
    assert report.as_json() == {
        "state": "waiting",
        "detail": "127.0.0.2:1, 2 nodes; players: 1 of 2 run",
        "journal": None,
        "pieces": [
            {"name": "player-2", "state": "running", "detail": "on a"},
            {"name": "player-10", "state": "waiting", "detail": "asks for 1 GPU; 0 of 2 nodes have one"},
        ],
    }
    assert report.line() == "waiting: 127.0.0.2:1, 2 nodes; players: 1 of 2 run"
    assert cluster_report({}) is None
