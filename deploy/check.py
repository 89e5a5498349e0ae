"""Checks everything in this folder with the tools of others: `make check-deploy`. Exit code 1 if one finds something, or is missing.

Nothing is built, started or applied, and nothing is asked of the network. Left out: what needs no tools (`tests/deploy/`).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml  # of checkov

HERE = Path(__file__).resolve().parent
TOOLS = Path(sys.executable).parent
OVERLAYS = ("cpu", "cpu-sandbox", "gpu", "gpu-sandbox")
EXPOSURE = {"perdure.service": 26, "perdure-backup.service": 9}
"""How exposed `systemd-analyze security` may find each service, in tenths: it counts from 0 to 10."""
UNITS = (*EXPOSURE, "perdure-backup.timer")
CLUSTER = "cluster/kubernetes"
SCRIPTS = ("perdure-backup", "cluster/perdure.slurm")
SLURM = {
    "job-name": r"[a-z]+",
    "nodes": r"[1-9]\d*",
    "ntasks-per-node": r"1",
    "cpus-per-task": r"[1-9]\d*",
    "gpus-per-node": r"[1-9]\d*",
    "mem": r"[1-9]\d*[MG]",
    "time": r"(\d+-)?\d\d:\d\d:\d\d",
    "signal": r"B:TERM@\d+",
    "output": r"\S*%j\S*",
}
"""The options of sbatch that a script here may have, and what may stand there."""
MEANS = {
    "hadolint": "make check-deploy installs it",
    "check-jsonschema": "make check-deploy installs it",
    "kubernetes-validate": "make check-deploy installs it",
    "checkov": "make check-deploy installs it",
    "shellcheck": "make check-deploy installs it",
    "systemd-analyze": "install systemd",
    "systemd-tmpfiles": "install systemd",
    "kubectl": "install kubectl 1.27 or newer, which has kustomize in it",
    "promtool": "install Prometheus (Debian: prometheus)",
}
"""What to do where a tool is missing."""
SKIPPED = {
    "CKV_K8S_43": "an image by digest: each operator builds the images, and can add their digests under `images:` of the overlay",
    "CKV_K8S_15": "pull always: the tags are of releases, and a node may have the image from elsewhere than a registry",
}
"""The checks of checkov that are not made, each with the reason."""


def main() -> int:
    missing = [name for name in MEANS if _find(name) is None]
    if missing:
        print("\n".join(f"{name} is missing: {MEANS[name]}" for name in missing), file=sys.stderr)
        return 1
    failed = 0
    with TemporaryDirectory() as scratch, chdir(HERE):
        for check in CHECKS:
            found = list(check(Path(scratch)))
            failed += bool(found)
            print("\n".join([f"{check.__name__}: {'not ok' if found else 'ok'}", *found]), flush=True)
    return 1 if failed else 0


def images(scratch: Path) -> Iterator[str]:
    """Both Dockerfiles, by hadolint."""
    yield from run("hadolint", "Dockerfile", "Dockerfile.cuda")


def units(scratch: Path) -> Iterator[str]:
    """The units: nothing that systemd does not know, and little that they could reach. A word on stderr counts, since the exit code may
    be 0 all the same."""
    for name in UNITS:  # with a program that is there
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", Path(name).read_text())
        (scratch / name).write_text(text)
    paths = [str(scratch / name) for name in UNITS]
    yield from run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths, silent=True)
    for name, most in EXPOSURE.items():
        yield from run("systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={most}", str(scratch / name))


def folders(scratch: Path) -> Iterator[str]:
    """The tmpfiles, made in a folder that stands for the root of a machine."""
    root = scratch / "root"
    (root / "etc").mkdir(parents=True)
    me = pwd.getpwuid(os.getuid())
    for file, ids in (("passwd", f"{me.pw_uid}:{me.pw_gid}::/:/bin/false"), ("group", f"{me.pw_gid}:")):
        lines = [f"root:x:{'0:0::/:/bin/false' if file == 'passwd' else '0:'}", f"perdure:x:{ids}"]
        (root / "etc" / file).write_text("\n".join(lines) + "\n")
    said = list(run("systemd-tmpfiles", "--create", f"--root={root}", str(HERE / "perdure.tmpfiles.conf"), silent=True))
    if me.pw_uid != 0:
        said = [line for line in said if "/etc/perdure" not in line]  # it belongs to root
    yield from said
    for folder in ("lib", "cache", "backups"):
        made = root / "var" / folder / "perdure"
        if not made.is_dir() or made.stat().st_mode & 0o777 != 0o700:
            yield f"{made.relative_to(root)} is not made for its user alone"


def compose(scratch: Path) -> Iterator[str]:
    """The compose files, against the schema of the Compose Specification."""
    yield from run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *sorted(map(str, Path().glob("compose*.yml"))))


def kubernetes(scratch: Path) -> Iterator[str]:
    """Each overlay as kubectl would apply it, against the schemas of Kubernetes."""
    for name in OVERLAYS:
        done = _run("kubectl", "kustomize", f"kubernetes/overlays/{name}")
        yield from _told(done, silent=False)
        rendered = scratch / "rendered" / f"{name}.yaml"
        rendered.parent.mkdir(exist_ok=True)
        rendered.write_text(done.stdout)
        yield from run("kubernetes-validate", "--strict", "--quiet", str(rendered))


def ray_cluster(scratch: Path) -> Iterator[str]:
    """The RayCluster and what belongs to it. Its own keys against a schema of ours, as no package has KubeRay's with a licence; its pods
    against the schema of Kubernetes, as if each stood alone. `policies` looks at them too."""
    done = _run("kubectl", "kustomize", CLUSTER)
    yield from _told(done, silent=False)
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(done.stdout))
    plain = [one for one in objects if one["kind"] != "RayCluster"]
    (cluster,) = [one for one in objects if one["kind"] == "RayCluster"]
    alone = scratch / "ray-cluster.yaml"
    alone.write_text(yaml.safe_dump(cluster))
    yield from run("check-jsonschema", "--schemafile", "cluster/ray-cluster.schema.json", str(alone))
    spec = cluster["spec"]
    groups = {"head": spec["headGroupSpec"], **{one["groupName"]: one for one in spec["workerGroupSpecs"]}}
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **cluster["metadata"], **group["template"].get("metadata", {})}}
        | {"spec": group["template"]["spec"]}
        for name, group in groups.items()
    ]
    for name, pod in zip(groups, pods, strict=True):
        pod["metadata"]["name"] = f"perdure-{name}"
    rendered = scratch / "rendered" / "cluster.yaml"
    rendered.write_text(yaml.safe_dump_all([*plain, *pods]))
    yield from run("kubernetes-validate", "--strict", "--quiet", str(rendered))


def scripts(scratch: Path) -> Iterator[str]:
    """The shell scripts, by shellcheck; and the lines for Slurm, which it takes for comments. Slurm reads none after the first command."""
    yield from run("shellcheck", *SCRIPTS)
    lines = Path(SCRIPTS[-1]).read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    for n, line in enumerate(lines, start=1):
        found = re.fullmatch(r"##?SBATCH --([a-z-]+)=(.*)", line)
        if line.startswith(("#SBATCH", "##SBATCH")) and (
            found is None or n > first or not re.fullmatch(SLURM.get(found[1], "(?!)"), found[2])
        ):
            yield f"  {SCRIPTS[-1]}:{n}: Slurm would not read this as it is meant: {line}"


def policies(scratch: Path) -> Iterator[str]:
    """checkov's policies for images and for the rendered manifests, offline."""
    for framework, folder in (("dockerfile", Path()), ("kubernetes", scratch / "rendered")):
        options = ["--compact", "--quiet", "--skip-download", "--skip-check", ",".join(SKIPPED)]
        yield from run("checkov", "--framework", framework, "--directory", str(folder), *options)


def alerts(scratch: Path) -> Iterator[str]:
    """The rules of Prometheus, and their tests."""
    yield from run("promtool", "check", "rules", "alerts.yml")
    for cases in sorted(map(str, Path("../tests/agent/telemetry").glob("alert_cases*.yml"))):
        yield from run("promtool", "test", "rules", cases)


def run(tool: str, *arguments: str, silent: bool = False) -> Iterator[str]:
    """What a tool finds: its output, if it fails; if `silent`, also if it says anything on stderr."""
    return _told(_run(tool, *arguments), silent)


def _told(done: subprocess.CompletedProcess[str], silent: bool) -> Iterator[str]:
    if done.returncode != 0 or (silent and done.stderr.strip()):
        yield f"  $ {' '.join(done.args)}  (exit code {done.returncode})"
        yield from (f"  {line}" for line in (done.stdout + done.stderr).splitlines())


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_find(tool) or tool, *arguments], capture_output=True, text=True, timeout=600, check=False)


def _find(tool: str) -> str | None:
    """The tool of the virtual environment that runs this, else that of the machine."""
    return shutil.which(tool, path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (images, units, folders, compose, kubernetes, ray_cluster, scripts, policies, alerts)

if __name__ == "__main__":
    sys.exit(main())
