"""`perdure demo`: what Perdure does, seen in ten minutes."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import visible


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("perdure-demo"),
    show_default=True,
    help="A new folder, for the home of the demonstration and its settings.",
)
@click.pass_context
def demo(ctx: click.Context, folder: Path) -> None:
    """See in ten minutes what Perdure does, on two cores, with the default model.

    An update at a large rate, without replay, makes the model forget, and the gate refuses it. The default update serves, although its
    process is killed in the middle. A rollback takes less than a second. Every step is a command that you can run yourself. Exit code 1 if
    something does not come out so.

    \b
    Example:
      perdure demo
      perdure --home perdure-demo/home report
    """
    from perdure.agent.demo.demo_screen import demo_lines, failures
    from perdure.agent.demo.demo_steps import run_demo

    facts = run_demo(folder.expanduser(), lambda line: click.echo(visible(line), err=True))
    click.echo("", err=True)
    for line in demo_lines(facts, str(folder / "home")):
        click.echo(line)
    failed = failures(facts)
    for line in failed:
        click.echo(f"not as promised: {line}")
    ctx.exit(1 if failed else 0)
