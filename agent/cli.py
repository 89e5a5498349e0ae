"""The command line: which commands exist, and how every error becomes one line and an exit code.

Exit codes: 0 done · 1 the answer is no · 2 wrong use or bad input · 3 the runtime failed · 130 interrupted.
A command is imported when it is called, so that `perdure --help` loads neither torch nor the store. The commands are in `commands/`.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import shell_complete

from perdure import __version__
from perdure.agent.home import DEFAULT_HOME, HOME_VARIABLE
from perdure.agent.show.terminal import HOME_KEY, SummaryGroup, visible
from perdure.memory.errors import PerdureError, RuntimeFailure

COMMANDS: dict[str, str] = {
    "init": "setup",
    "config": "setup",
    "doctor": "setup",
    "run": "run",
    "status": "status",
    "pause": "pausing",
    "resume": "pausing",
    "job": "job_queue",
    "change": "change",
    "task": "task",
    "episode": "episode",
    "env": "env",
    "learn": "learn",
    "gate": "learn",
    "probe": "learn",
    "panel": "panel",
    "version": "version",
    "store": "replay_store",
    "sql": "history.sql",
    "study": "studies.study",
    "demo": "demo",
    "web": "run",
    "report": "studies.report",
    "bench": "bench",
}
"""For each command the module of `commands/` that has a function of its name."""


COMPLETE_VARIABLE = "_PERDURE_COMPLETE"
"""What a shell sets when it asks for completions; `bash_source`, `zsh_source` or `fish_source` prints the script that does."""


class Commands(SummaryGroup):
    """Commands by name, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"perdure.agent.commands.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(f"No command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "."), ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help=f"Folder for everything that a run writes. [default: {HOME_VARIABLE} in the environment, else {DEFAULT_HOME}]",
)
@click.version_option(__version__, message="perdure %(version)s")
def perdure(home: Path | None) -> None:
    """An agent that keeps learning from its own work and keeps what it learned.

    \b
    Example:
      perdure init
      perdure run --until-promoted
      perdure status
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent closed it: the next file that is opened would take its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the life of the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where the terminal knows ASCII only
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is typed where only ASCII is said to be known comes in UTF-8 nowadays
        known = "utf-8" if sys.stdin.encoding.lower() in ("ascii", "ansi_x3.4-1968", "us-ascii") else sys.stdin.encoding
        sys.stdin.reconfigure(encoding=known, errors="replace")
    sys.path.append("")  # the working folder, last: py:module:Class finds modules here, and none here hides another
    asked = os.environ.get(COMPLETE_VARIABLE)
    if asked is not None:
        sys.exit(shell_complete(perdure, {}, "perdure", COMPLETE_VARIABLE, asked))
    context: click.Context | None = None
    try:
        context = perdure.make_context("perdure", list(sys.argv[1:] if arguments is None else arguments))
        with context:
            perdure.invoke(context)
        sys.stdout.flush()
        code = 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "perdure"
        code = _complain(f"{error.format_message()} See `{path} --help`.", 2)
    except click.ClickException as error:
        code = _complain(error.format_message(), 2)
    except PerdureError as error:
        code = _complain(str(error), 3 if isinstance(error, RuntimeFailure) else 2)
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has ended
        code = 0
    except Exception as error:  # noqa: BLE001 - a bug in Perdure itself: its traceback is kept to be reported
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            code = _complain("no space is left on the disk: free some, and try again", 3)
        else:
            code = _complain(f"{type(error).__name__}: {error}. This is a bug in Perdure; {_keep_traceback(context)}", 3)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    click.echo("perdure: " + visible(" ".join(message.split())), err=True)
    return code


def _keep_traceback(context: click.Context | None) -> str:
    """Write the traceback to the log of the home, or else to stderr; tells which."""
    text = traceback.format_exc()
    home = context.meta.get(HOME_KEY) if context else None
    logs = Path(home) / "logs" if home else None
    if logs is not None and logs.is_dir():
        try:
            with (logs / "errors.log").open("a") as log:
                log.write(text)
        except OSError:
            pass
        else:
            return f"the traceback is in {logs / 'errors.log'}"
    click.echo(text, err=True)
    return "the traceback is above"
