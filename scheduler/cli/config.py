"""`scheduler config`: check a file of settings, show what is in force and where each value came from, and the file's JSON schema."""

import json
from pathlib import Path
from typing import Any

import click

from scheduler.cli import config_file
from scheduler.cli.options import origins
from scheduler.cli.output import fail, output_option, say, show
from scheduler.cli.serve import serve, serve_settings
from scheduler.cli.sidecar import sidecar, sidecar_settings
from scheduler.config import ConfigError

COMMANDS: dict[str, click.Command] = {"serve": serve, "sidecar": sidecar}
_MASK = "***"

_command = click.argument("command", type=click.Choice(list(COMMANDS)))


@click.group()
def config() -> None:
    """Check and show settings: flags go before environment, before the file, before defaults."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--command", type=click.Choice(list(COMMANDS)), default="serve", show_default=True, help="Whose settings they are."
)
def check(file: Path, command: str) -> None:
    """Check FILE as `scheduler serve --config-file FILE` would take it; all that is wrong is told, with its line.

    SCHEDULER_SERVE_... variables that are no settings are told, too.
    """
    kind = COMMANDS[command]
    try:
        config_file.check_environment(kind)
        entries = config_file.read(file, kind)
        _check(command, config_file.values(kind, entries))
    except ConfigError as error:
        fail(str(error))
    say(f"{file}: {len(entries)} settings of `scheduler {command}`, all of them good")


def _check(command: str, values: dict[str, Any]) -> None:
    """Raises ConfigError where these values make no settings."""
    if command == "serve":
        serve_settings(values, [])
        return
    # Who runs a sidecar may say for which app; tokens are files of another machine.
    given = {"app_id": values["app_id"] or "app", "dapr_api_token_file": None, "app_api_token_file": None}
    sidecar_settings({**values, **given})


@config.command("show", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--origin", is_flag=True, help="Tell where each value came from.")
@output_option
@_command
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def show_settings(origin: bool, output: str, command: str, arguments: tuple[str, ...]) -> None:
    """Show the settings that `scheduler COMMAND ARGUMENTS` would run with, here and now. Secrets are masked.

    \b
    Example: scheduler config show --origin serve --config-file scheduler.yaml --port 50007
    """
    kind = COMMANDS[command]
    with kind.make_context(command, list(arguments), auto_envvar_prefix=f"SCHEDULER_{command.upper()}") as ctx:
        keys = config_file.settings_of(kind)
        found = [
            (option.opts[0].removeprefix("--"), ctx.params[str(option.name)], place) for option, place in origins(ctx)
        ]
    shown = [
        (key, _shown(value, secret=config_file.is_secret(key, keys)), place)
        for key, value, place in found
        if key in keys
    ]
    document = {
        key: {"value": value, "origin": place} if origin else value for key, value, place in shown if value is not None
    }
    rows = [(key, _cell(value), place)[: 3 if origin else 2] for key, value, place in shown]
    show(output, document, header=("SETTING", "VALUE", "ORIGIN")[: 3 if origin else 2], rows=rows)


def _shown(value: Any, *, secret: bool) -> Any:
    if secret:
        return _MASK if value else None
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _cell(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else value


@config.command()
@_command
def schema(command: str) -> None:
    """Print the JSON schema of the file of settings of COMMAND, for editors and checks."""
    click.echo(json.dumps(config_file.schema(COMMANDS[command]), indent=2))
