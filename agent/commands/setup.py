"""`perdure init`, `perdure config show` and `perdure doctor`: before anything runs."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import SummaryGroup, config_option, home_option, json_option, print_json, print_table
from perdure.memory.errors import InputError, RuntimeFailure


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("."))
def init(folder: Path) -> None:
    """Write a commented perdure.toml that runs as it is.

    \b
    Example:
      perdure init my-agent && cd my-agent && perdure run
    """
    from perdure.agent.config_file import FILE_NAME, template

    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{error.filename} exists already: edit it, or name another folder, as in `perdure init my-agent`") from error
    except OSError as error:
        raise RuntimeFailure(f"cannot write {path}: {error.strerror}; name another folder, as in `perdure init my-agent`") from error
    try:
        with stream:
            stream.write(template())
    except OSError as error:
        path.unlink()
        raise RuntimeFailure(f"cannot write {path}: {error.strerror}; nothing of it was kept") from error
    change = "" if folder == Path(".") else f"cd {folder}, then "
    click.echo(f"Wrote {path}. Next: {change}`perdure doctor` checks this machine, and `perdure run` starts.")


@click.group(cls=SummaryGroup)
def config() -> None:
    """Show the configuration.

    \b
    Example:
      perdure config show
    """


@config.command()
@config_option
@json_option
def show(config_path: Path | None, as_json: bool) -> None:
    """Show every setting, its value and its origin.

    \b
    Example:
      perdure config show --config perdure.toml
    """
    from perdure.agent.config_file import load_config, settings

    loaded = load_config(config_path)
    listed = settings(loaded)
    if as_json:
        print_json([setting.as_json() for setting in listed])
        return
    print_table(("setting", "from", "value"), [(setting.key, setting.origin, str(setting)) for setting in listed])


@click.command()
@home_option
@config_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, home: Path, config_path: Path | None, as_json: bool) -> None:
    """Check this machine for everything that Perdure needs.

    Each problem comes with its remedy. Exit code 1 if Perdure cannot run.

    \b
    Example:
      perdure doctor
    """
    from perdure.agent.doctor import examine

    checks = examine(home, config_path)
    ok = all(check.level != "error" for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [check.as_json() for check in checks]})
    else:
        rows = [(check.level, check.name, check.found + (f"; {check.remedy}" if check.remedy else "")) for check in checks]
        print_table(("", "check", "found"), rows)
    ctx.exit(0 if ok else 1)
