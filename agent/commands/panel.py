"""`perdure panel`: the capability panel, fixed skills outside of every stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import SummaryGroup, config_option, home_option, json_option, print_json, report_option, say

if TYPE_CHECKING:
    from perdure.agent.config_file import LoadedConfig
    from perdure.memory.contracts.orders import PanelOrder
    from perdure.memory.contracts.panel_results import PanelResult

DEFAULT = "show"


class _WithDefault(SummaryGroup):
    """A group in which whatever is no command of it belongs to its command `show`: `perdure panel v3` is `perdure panel show v3`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in super().list_commands(ctx) if name != DEFAULT]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] == ["--help"] else self._named(args))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, self._named(args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        show.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def _named(self, args: list[str]) -> list[str]:
        return args if args and args[0] in self.commands else [DEFAULT, *args]


@click.group(cls=_WithDefault, subcommand_metavar="[VERSION]")
def panel() -> None:
    """Score a version on the capability panel: fixed skills outside of every stream.

    The serving version by default, beside the base model and the version that it was made from. What is known is not scored again. A skill
    that lost more than its limit is FORGOTTEN; exit code 1 then.

    \b
    Example:
      perdure panel v3
      perdure panel v3 --scores all --json
      perdure panel add my-items.jsonl
    """


@panel.command()
@click.argument("version", metavar="[VERSION]", required=False)
@click.option(
    "--scores",
    "asked",
    type=click.Choice(["choice", "all"]),
    default="choice",
    show_default=True,
    help="all: also greedy answers, marked strictly, leniently, and with a solved example in sight.",
)
@home_option
@config_option
@report_option
@click.pass_context
def show(ctx: click.Context, version: str | None, asked: str, home: Path, config_path: Path | None, as_json: bool) -> None:
    """Score a version on the capability panel.

    \b
    Example:
      perdure panel v3
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.show.panel_bars import print_panel
    from perdure.memory.contracts.orders import PanelOrder
    from perdure.memory.contracts.panel_json import panel_document

    loaded = load_config(config_path)
    result = _result(home, loaded, PanelOrder(version=version, asked="all" if asked == "all" else "choice"))
    if as_json:
        print_json(panel_document(result))
    else:
        print_panel(result)
    ctx.exit(1 if any(skill.lost_against for skill in result.skills.values()) else 0)


@panel.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@home_option
@json_option
def add(file: Path, home: Path, as_json: bool) -> None:
    """Add a skill of your own to the panel of the home, from a file of JSON lines.

    The first line is the header, each further one an item. From then on every gate looks at it.

    \b
    Example:
      perdure panel add my-items.jsonl
    """
    from perdure.agent.changes.file_changes import note
    from perdure.agent.changes.person import person_here
    from perdure.agent.home import open_or_create
    from perdure.learners.panel.panel_items import add_skill, operators_skill

    skill, content = operators_skill(file)  # before a home is made
    items = len(skill.items)
    with open_or_create(home) as store:
        note(store, person_here(), "panel add", skill.name, {"file": str(file), "items": items})
    add_skill(home, skill, content)
    if as_json:
        print_json({"skill": skill.name, "items": items})
        return
    click.echo(f"{skill.name} is part of the panel now, with {items} items.")


def _result(home: Path, loaded: LoadedConfig, order: PanelOrder) -> PanelResult:
    """What the panel says of a version: by a job if something is to be scored, else from the store."""
    from perdure.agent.changes.job_orders import queue_panel
    from perdure.agent.changes.person import person_here
    from perdure.agent.home import open_or_create
    from perdure.agent.own_model import require_model_of
    from perdure.agent.processes.vllm.installed_vllm import require_vllm
    from perdure.agent.supervision.run_or_follow import require_done, run_or_follow
    from perdure.memory.contracts.panel_results import PanelResult

    known = _known(home, order)
    if known is not None:
        return known
    require_vllm(loaded.config)
    require_model_of(home, loaded.config)
    with open_or_create(home) as store:
        queued = queue_panel(store, person_here(), order.version, asked=order.asked)
    job = require_done(run_or_follow(home, loaded, queued["id"], say))
    assert isinstance(job.result, PanelResult)
    return job.result


def _known(home: Path, order: PanelOrder) -> PanelResult | None:
    """The same from the store; None if something is still to be scored. Raises `InputError` for a bad item, `UnknownError`."""
    from perdure.learners.panel.panel_items import load_panel
    from perdure.learners.panel.stored_scores import known_result
    from perdure.memory.errors import UnknownError
    from perdure.memory.store import FILE_NAME, open_store
    from perdure.memory.versions import get_version, serving

    skills = load_panel(home)
    if not (home / FILE_NAME).exists():
        if order.version is not None:
            raise UnknownError(f"no version {order.version!r}: there is no home {home} yet; `perdure run` makes one")
        return None
    with open_store(home) as store:
        if order.version is None and not store.rows("SELECT 1 FROM version"):
            return None
        version = get_version(store, order.version).name if order.version is not None else serving(store).name
        return known_result(store, version, skills, order.asked)
