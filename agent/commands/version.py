"""`perdure version`: which versions exist, which one serves, and changing that; adapters in, versions out.

Only `import`, `export` and `gc` touch more than the database.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import (
    SummaryGroup,
    config_option,
    home_option,
    json_option,
    print_json,
    print_table,
    report_option,
    say,
    visible,
    why_option,
)
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.memory.json_value import Document
    from perdure.memory.store import Store

reason_option = click.option("--reason", required=True, help="Why; it is kept in the log.")


@click.group(cls=SummaryGroup)
def version() -> None:
    """List versions, and choose which one serves.

    \b
    Example:
      perdure version list
    """


@version.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List all versions, newest first.

    \b
    Example:
      perdure version list --json | jq '.[] | select(.state == "serving")'
    """
    from perdure.memory.store import open_store
    from perdure.memory.versions import as_json as version_json
    from perdure.memory.versions import list_versions

    with open_store(home, reading=True) as store:
        listed = [version_json(record) for record in list_versions(store)]
    if as_json:
        print_json(listed)
        return
    rows = [(row["name"], row["state"], row["parent"], row["created"], row["hash"][:12], ", ".join(row["targets"])) for row in listed]
    print_table(("name", "state", "parent", "created", "hash", "targets"), rows)


@version.command()
@click.argument("name", metavar="VERSION")
@home_option
@json_option
def show(name: str, home: Path, as_json: bool) -> None:
    """Show a version: its origin, its gates, and when it served.

    \b
    Example:
      perdure version show v1
    """
    from perdure.agent.show.gate_table import print_gate
    from perdure.agent.show.home_documents import version_document
    from perdure.memory.gates import gates_of
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        facts = version_document(store, name)
        gates = gates_of(store, name)
    if as_json:
        print_json(facts)
        return
    moved = facts.pop("moves")
    del facts["gates"]
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{key:>8}  {visible(str('-' if shown in (None, '') else shown))}")
    for gate in gates:
        if gate.result is None:
            click.echo(f"\nGate {gate.id} has no verdict yet.")
        else:
            print_gate(gate.result)
            click.echo(f"{gate.result.verdict}: {visible(gate.result.reason)}")
    for move in moved:
        click.echo(f"\n{move['moved']}  {move['kind']}: {move['from'] or '-'} -> {move['to']}. {visible(move['reason'])}")


@version.command()
@click.argument("name", metavar="VERSION")
@reason_option
@home_option
@json_option
def promote(name: str, reason: str, home: Path, as_json: bool) -> None:
    """Let a version serve without a gate.

    \b
    Example:
      perdure version promote v2 --reason 'read its episodes: they are better'
    """
    from perdure.agent.changes import version_moves
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        before = _serving(store)
        now = version_moves.promote(store, person_here(), name, reason=reason, expected=before)
    if as_json:
        print_json(now)
        return
    click.echo(f"{name} serves now, in place of {before}. `perdure version rollback --reason ...` goes back.")


@version.command()
@click.argument("name", metavar="VERSION")
@reason_option
@home_option
@json_option
def reject(name: str, reason: str, home: Path, as_json: bool) -> None:
    """Reject a candidate: it never serves. `version gc` may remove its files.

    \b
    Example:
      perdure version reject v3 --reason 'its answers are right, and rude'
    """
    from perdure.agent.changes import version_moves
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        rejected = version_moves.reject(store, person_here(), name, reason=reason)
    if as_json:
        print_json(rejected)
        return
    click.echo(f"{name} is rejected and never serves.")


@version.command()
@click.argument("name", metavar="[VERSION]", required=False)
@reason_option
@home_option
@json_option
def rollback(name: str | None, reason: str, home: Path, as_json: bool) -> None:
    """Let an earlier version serve again: the previous one, or VERSION.

    \b
    Example:
      perdure version rollback --reason 'answers became worse'
    """
    from perdure.agent.changes import version_moves
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        before = _serving(store)
        now = version_moves.rollback(store, person_here(), name, reason=reason, expected=before)
    if as_json:
        print_json(now)
        return
    click.echo(f"{now['name']} serves again, in place of {before}.")


@version.command()
@click.argument("name", metavar="VERSION")
@click.option("--off", is_flag=True, help="Remove the pin.")
@why_option
@home_option
@json_option
def pin(name: str, off: bool, reason: str | None, home: Path, as_json: bool) -> None:
    """Protect the files of a version from `version gc`.

    \b
    Example:
      perdure version pin v2
    """
    from perdure.agent.changes import version_moves
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        pinned = version_moves.pin(store, person_here(), name, not off, reason=reason)
    if as_json:
        print_json(pinned)
        return
    click.echo(f"{name} is pinned." if not off else f"{name} is no longer pinned.")


@version.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, metavar="ENV", help="An environment that it was trained on; may be repeated.")
@home_option
@config_option
@report_option
def import_(folder: Path, targets: tuple[str, ...], home: Path, config_path: Path | None, as_json: bool) -> None:
    """Make a PEFT LoRA adapter folder a candidate. Its tensors are checked and rewritten; no code in its files runs.

    \b
    Example:
      perdure version import ./my-adapter --target 'perdure:largest-number?shots=3'
    """
    from perdure.agent.changes.person import person_here
    from perdure.agent.config_file import load_config
    from perdure.agent.home import cache_dir, open_or_create
    from perdure.agent.stream.registering import register_environments
    from perdure.memory import versions
    from perdure.memory.changes import perform

    loaded = load_config(config_path)
    environments = [loaded.config.environment(name) for name in targets]
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one with adapter_config.json and adapter_model.safetensors")
    say(f"reading {folder}")
    from perdure.learners.weights.adapters import write_version
    from perdure.learners.weights.base_models import resolve_model
    from perdure.learners.weights.peft_format import check_foreign, covered, passed_over, write_lora

    base = resolve_model(loaded.config.model, cache_dir(), say, home if home.is_dir() else None)
    weights = check_foreign(folder, base)
    with open_or_create(home) as store:
        versions.add_initial(store, base.name, base.hash)
        aims = register_environments(store, environments)
        new = versions.reserve_name(store)
        path, digest = write_version(store.home, new, base, lambda scratch: write_lora(scratch, weights, base))

        def add() -> tuple[str, Document]:
            made = versions.add_candidate(store, None, new, parent=versions.INITIAL, hash=digest, path=path, targets=aims, job=None)
            return new, versions.as_json(made)

        asked = {"folder": str(folder), "targets": aims}
        made = perform(store, add, by=person_here(), what="version import", arguments=asked)
    adapts, left = covered(weights, base), passed_over(folder, base)
    if as_json:
        print_json({**made, "adapts": adapts, "passed_over": left})
        return
    for line in left:
        click.echo(f"{folder}: {visible(line)}.")
    target = "".join(f" --target '{name}'" for name in aims)
    click.echo(f"{new} is a candidate. It changes {adapts}. `perdure gate {new}{target}` judges it.")


@version.command()
@click.argument("name", metavar="VERSION")
@click.option("--form", type=click.Choice(("peft", "merged")), required=True, help="The adapter alone, or the model with it merged in.")
@click.option("--gguf", is_flag=True, help="With --form merged: a GGUF file too, of llama, mistral, qwen2, qwen3, smollm3, granite.")
@click.option(
    "--dtype",
    "precision",
    type=click.Choice(("float32", "bfloat16", "float16")),
    default="float32",
    show_default=True,
    help="Of a merged model. A shorter one rounds away a part of what was learned.",
)
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The new folder to write.")
@home_option
@config_option
@report_option
def export(name: str, form: str, gguf: bool, precision: str, out: Path, home: Path, config_path: Path | None, as_json: bool) -> None:
    """Write a version as others serve it: a PEFT adapter, or a merged model with its tokenizer. Its README has the verdict on it.

    \b
    Example:
      perdure version export v1 --form merged --out v1-merged
      perdure version export v1 --form merged --gguf --out v1-gguf
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.home import cache_dir
    from perdure.agent.show.version_card import version_card
    from perdure.memory import versions
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        record = versions.get_version(store, name)
        versions.require_files(store, record)
        say(f"reading {name}")
        from perdure.learners.engines.version_loading import version_weights
        from perdure.learners.weights.base_models import resolve_model
        from perdure.learners.weights.peft_format import covered
        from perdure.learners.weights.version_export import export_version

        base = resolve_model(load_config(config_path).config.model, cache_dir(), say, store.home)
        if base.hash != versions.base_of(store, name)[1]:
            raise versions.refused_model(store, base.name, base.hash)
        weights = version_weights(store, base, record)
        adapts = covered(weights, base) if form == "peft" else ""
        card = version_card(store, name, form=form, precision=precision, gguf=gguf, adapts=adapts)
        files = export_version(
            out,
            name,
            base,
            weights,
            form="peft" if form == "peft" else "merged",
            precision="float32" if precision == "float32" else "bfloat16" if precision == "bfloat16" else "float16",
            gguf=gguf,
            readme=card,
            say=say,
        )
    if as_json:
        print_json({"version": name, "form": form, "out": str(out), "files": [file.name for file in files]})
        return
    click.echo(f"{out}: {', '.join(file.name for file in files)}.")


@version.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@home_option
@json_option
def gc(dry_run: bool, home: Path, as_json: bool) -> None:
    """Remove the files of versions that nothing needs any more, and what interrupted jobs left an hour ago or earlier.

    Rejected versions go, and candidates made from a version that no longer serves. Versions that serve or have served, pinned ones, anchors
    and imported ones stay, with those that they were trained from. Versions keep their names.

    \b
    Example:
      perdure version gc --dry-run
    """
    from contextlib import nullcontext

    from perdure.agent.changes.person import person_here
    from perdure.agent.changes.version_waste import remove_waste, waste
    from perdure.agent.home import HomeLock
    from perdure.memory.store import open_store

    with open_store(home) as store, nullcontext() if dry_run else HomeLock(home):
        found = list(waste(store))
        if found and not dry_run:
            remove_waste(store, person_here(), found)
    if as_json:
        print_json([{"path": str(item.folder), "size_bytes": item.size_bytes, "why": item.why} for item in found])
        return
    print_table(("folder", "MiB", "why"), [(str(item.folder), item.size_bytes / 2**20, item.why) for item in found])
    click.echo("Nothing was removed." if dry_run or not found else f"Removed {len(found)}.")


def _serving(store: Store) -> str | None:
    """The name of the version that serves; None if none does yet, which is said when one is to be changed."""
    from perdure.memory.versions import list_versions

    return next((one.name for one in list_versions(store) if one.state == "serving"), None)
