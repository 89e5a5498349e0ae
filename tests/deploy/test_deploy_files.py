"""What can be said of the files in deploy/ without the tools of others, which `make check-deploy` asks."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from perdure import __version__
from perdure.agent.cli import perdure
from perdure.agent.config_file import load_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILES = (DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda")
IN_CONTAINERS = (KUBERNETES / "base" / "perdure.toml", KUBERNETES / "overlays" / "gpu" / "perdure.toml")
EXAMPLES = tuple(sorted((DEPLOY / "examples").glob("*.toml")))
TOKEN = "/run/secrets/perdure-token"
ID = "10001"


def document(path: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load_all(path.read_text())
    assert isinstance(found, dict)
    return found


def stateful_set() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and its container."""
    pod = document(KUBERNETES / "base" / "stateful-set.yaml")["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


# --- configurations ---


@pytest.mark.parametrize("path", [*EXAMPLES, *IN_CONTAINERS], ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_configuration_loads_and_its_options_are_those_of_its_learner(path: Path) -> None:
    config = load_config(path).config
    config.learner_options(config.learn.learner)


def test_there_is_an_example_for_each_machine() -> None:
    assert [path.stem for path in EXAMPLES] == ["eight-gpus", "laptop", "one-gpu"]


@pytest.mark.parametrize("path", IN_CONTAINERS, ids=lambda path: path.parent.name)
def test_in_a_container_the_page_is_reached_from_outside_and_asks_for_the_token_that_is_mounted(path: Path) -> None:
    web = load_config(path).config.web
    assert (web.enabled, web.host, web.port, web.token_file) == (True, "0.0.0.0", 8377, TOKEN)


def test_the_budget_of_the_disk_is_below_the_volume() -> None:
    for config, manifest in zip(IN_CONTAINERS, ("base", "overlays/gpu"), strict=True):
        claim = document(KUBERNETES / manifest / "stateful-set.yaml")["spec"]["volumeClaimTemplates"][0]
        volume_gib = float(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
        assert 0 < load_config(config).config.disk.budget_gib <= 0.8 * volume_gib


# --- commands ---


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of the program that a file here runs, with the file's name."""
    for path in DOCKERFILES:
        for words in re.findall(r"^(?:HEALTHCHECK .* )?CMD (\[.*\])$", path.read_text(), re.MULTILINE):
            yield path.name, json.loads(words)
    for path in DEPLOY.glob("*.service"):
        for line in re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE):
            if line.split("/")[-1] != "perdure-backup":
                yield path.name, shlex.split(line)
    yield "compose.yml", document(DEPLOY / "compose.yml")["services"]["perdure"]["healthcheck"]["test"][1:]
    _, container = stateful_set()
    for probe in ("startupProbe", "livenessProbe"):
        yield probe, container[probe]["exec"]["command"]
    for line in re.findall(r"^ *(?:if ! )?(perdure [^;\n]*)", (DEPLOY / "perdure-backup").read_text(), re.MULTILINE):
        yield "perdure-backup", shlex.split(line)


def test_every_command_that_is_run_exists() -> None:
    found = [(name, words) for name, words in commands() if Path(words[0]).name == "perdure"]
    assert len(found) == 9, found
    for name, (_, *words) in found:
        command: click.Command = perdure
        context = click.Context(command, info_name="perdure", **command.context_settings)
        while isinstance(command, click.Group):
            _, words, _ = command.make_parser(context).parse_args(list(words))
            word, inner, words = command.resolve_command(context, words)
            assert inner is not None, (name, words)
            command, context = inner, click.Context(inner, info_name=word, parent=context)
        command.make_context(command.name, list(words), parent=context.parent)


def test_health_is_asked_of_the_daemon_and_readiness_of_the_page() -> None:
    check = ["perdure", "status", "--check"]
    _, container = stateful_set()
    assert container["startupProbe"]["exec"]["command"] == container["livenessProbe"]["exec"]["command"] == check
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "web"}
    assert document(DEPLOY / "compose.yml")["services"]["perdure"]["healthcheck"]["test"] == ["CMD", *check]
    for path in DOCKERFILES:
        assert re.search(r'^HEALTHCHECK .*CMD \["perdure", "status", "--check"\]$', path.read_text(), re.MULTILINE)


# --- versions ---


def test_every_image_has_a_tag_that_is_not_latest() -> None:
    images = [image for path in DOCKERFILES for image in re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)]
    images += [document(path)["services"]["perdure"].get("image", "") for path in DEPLOY.glob("compose*.yml")]
    images.append(stateful_set()[1]["image"])
    images += [
        f"perdure:{document(KUBERNETES / 'overlays' / name / 'kustomization.yaml')['images'][0]['newTag']}" for name in ("cpu", "gpu")
    ]
    for image in filter(None, images):
        name, _, tag = image.partition(":")
        assert tag, image
        assert tag != "latest"
        assert name != "perdure" or tag.removesuffix("-cuda") == __version__


def test_the_images_have_the_versions_of_the_makefile_and_extras_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    pins = dict(re.findall(r"^(\w+) := (\S+==\S+)$", makefile, re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in DOCKERFILES:
        given = dict(re.findall(r"^ARG (\w+)=(\S*)$", path.read_text(), re.MULTILINE))
        assert given["TORCH"] == pins["TORCH"]
        assert given.get("VLLM", pins["VLLM_GPU"]) == pins["VLLM_GPU"]
        assert set(given["EXTRAS"].split(",")) <= extras.keys()
        assert "web" in given["EXTRAS"]
        assert "-c /src/deploy/constraints.txt" in path.read_text()
    assert "ARG VLLM=" in DOCKERFILES[1].read_text()


def test_what_the_images_are_built_of_is_sent_to_the_builder() -> None:
    kept = {line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    linked = {file.resolve().relative_to(ROOT).parts[0] for file in (ROOT / "src" / "perdure").iterdir() if file.is_symlink()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert kept == {"src", "deploy", "pyproject.toml", project["readme"], *project["license-files"], *linked}


# --- who may do what ---


def test_nothing_runs_as_root_and_the_number_of_its_user_is_the_same_everywhere() -> None:
    for path in DOCKERFILES:
        text = path.read_text()
        assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == [f"{ID}:{ID}"]
        assert f"--gid {ID}" in text
        assert f"--uid {ID}" in text
    pod, container = stateful_set()
    security = pod["securityContext"]
    assert {str(security[key]) for key in ("runAsUser", "runAsGroup", "fsGroup")} == {ID}
    assert security["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    service = document(DEPLOY / "compose.yml")["services"]["perdure"]
    assert (service["read_only"], service["cap_drop"], service["ports"]) == (True, ["ALL"], ["127.0.0.1:8377:8377"])


def test_the_token_is_a_secret_that_is_made_elsewhere() -> None:
    pod, container = stateful_set()
    (mounted,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == TOKEN]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mounted["name"]]
    assert volume["secret"]["secretName"] == "perdure-token"
    assert volume["secret"]["defaultMode"] & 0o007 == 0  # else the program refuses it
    assert "env" not in container
    (used,) = document(DEPLOY / "compose.yml")["services"]["perdure"]["secrets"]
    assert f"/run/secrets/{used['target']}" == TOKEN
    assert document(DEPLOY / "compose.yml")["secrets"][used["source"]]["file"] == "./token"
    assert "/deploy/token" in (ROOT / ".gitignore").read_text().splitlines()
    kinds = [one["kind"] for path in KUBERNETES.rglob("*.yaml") for one in yaml.safe_load_all(path.read_text())]
    assert "Secret" not in kinds
    assert "StatefulSet" in kinds


def test_a_further_compose_file_mounts_nothing_twice() -> None:
    """Mounts are merged by their place, a list of `tmpfs` is not."""
    for path in DEPLOY.glob("compose*.yml"):
        assert "tmpfs" not in document(path)["services"]["perdure"]


def test_there_is_one_pod_at_one_volume() -> None:
    spec = document(KUBERNETES / "base" / "stateful-set.yaml")["spec"]
    assert spec["replicas"] == 1
    assert [claim["spec"]["accessModes"] for claim in spec["volumeClaimTemplates"]] == [["ReadWriteOnce"]]


def test_the_seccomp_profile_allows_what_confinement_needs_and_little_that_the_usual_one_refuses() -> None:
    profile = json.loads((DEPLOY / "seccomp.json").read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ALLOW"}
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert len(names) == len(set(names))
    assert {"unshare", "mount", "mount_setattr", "seccomp", "landlock_restrict_self", "clone3", "execve", "futex", "pidfd_open"} <= set(
        names
    )
    refused = {
        "add_key",
        "keyctl",
        "request_key",
        "io_uring_setup",
        "bpf",
        "perf_event_open",
        "ptrace",
        "kexec_load",
        "init_module",
        "setns",
    }
    refused |= {
        "open_by_handle_at",
        "pivot_root",
        "move_mount",
        "fsopen",
        "process_vm_readv",
        "userfaultfd",
        "reboot",
        "swapon",
        "settimeofday",
    }
    assert refused.isdisjoint(names)


def test_every_file_of_an_overlay_is_named_by_it_or_by_its_base() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        text = path.read_text()
        assert [file.name for file in path.parent.iterdir() if file.is_file() and file != path and file.name not in text] == []


def test_every_alert_has_a_row_that_says_what_to_do() -> None:
    page = (ROOT / "docs" / "operations.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (Perdure\w+) \|", page, re.MULTILINE)
    groups = document(DEPLOY / "alerts.yml")["groups"]
    assert sorted(rows) == sorted(rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule)
