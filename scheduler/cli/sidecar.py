"""`scheduler sidecar`: the reference's flags (sidecar-and-jobs-api.md 9.3) for a process beside an app, or one that starts the app too."""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from scheduler import __version__
from scheduler.cli import config_file
from scheduler.cli.options import options
from scheduler.cli.process import configure_logs, run, settings_of
from scheduler.cli.reload import following
from scheduler.config import ConfigError, SidecarSettings

# Of the reference's sidecar, for what this one does not do: taken, so that its command lines work as they are.
_WITHOUT_EFFECT = (
    "config", "resources-path", "components-path", "placement-host-address", "control-plane-address", "dapr-internal-grpc-port",
    "dapr-internal-grpc-listen-address", "disable-init-endpoints", "allowed-origins", "profile-port", "actors-service",
    "reminders-service",
)  # fmt: skip


def _with_options(function: Any) -> Any:
    for name in _WITHOUT_EFFECT:
        function = click.option(f"--{name}", hidden=True, default=None)(function)
    wait = click.option(
        "--wait", is_flag=True, help="Only wait until a sidecar on --dapr-http-port is up, at most a minute."
    )
    return options(SidecarSettings, "SIDECAR")(wait(function))


class _SingleDashes:
    """The reference's flags may have one dash or two."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        end = args.index("--") if "--" in args else len(args)
        dashed = [f"-{one}" if re.match(r"-[a-z]{2,}", one) else one for one in args[:end]]
        parsed: list[str] = super().parse_args(ctx, dashed + args[end:])  # type: ignore[misc]
        return parsed


class _Command(_SingleDashes, click.Command):
    pass


class _Group(_SingleDashes, click.Group):
    pass


@click.group(cls=_Group, invoke_without_command=True)
@click.version_option(__version__, prog_name="scheduler")
@_with_options
@click.pass_context
def sidecar(ctx: click.Context, /, **values: Any) -> None:
    """Run a sidecar: the Jobs API for one app, and the delivery of its jobs.

    The app schedules with POST /v1.0/jobs/NAME on --dapr-http-port and receives POST /job/NAME on its own port.
    """
    if ctx.invoked_subcommand is None:
        _serve(ctx, (), {}, **values)


@sidecar.command("run", cls=_Command)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@_with_options
@click.pass_context
def run_app(ctx: click.Context, /, command: tuple[str, ...], **values: Any) -> None:
    """Run a sidecar and its app: COMMAND, behind `--`.

    \b
    Example: scheduler sidecar run --app-id backup --app-port 6002 -- python app.py

    The app finds DAPR_HTTP_PORT, DAPR_GRPC_PORT, DAPR_METRICS_PORT, APP_ID and APP_PORT in its environment. It is
    stopped with the sidecar; when it ends by itself, the sidecar ends too, with its exit code.
    """
    assert ctx.parent is not None
    names = [name for name in values if _is_flag(ctx.parent, name) and not _is_flag(ctx, name)]
    before = {name: ctx.parent.params[name] for name in names}
    _serve(ctx, command, before, **{**values, **before})


def _is_flag(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _serve(ctx: click.Context, command: tuple[str, ...], before: dict[str, Any], *, wait: bool, **values: Any) -> None:
    """`before` are flags that stand before `run`."""
    if wait:
        sys.exit(_wait(values["dapr_http_port"]))
    ignored = [name for name in _WITHOUT_EFFECT if values.pop(name.replace("-", "_")) is not None]
    if values["app_id"] is None:
        raise click.UsageError("Missing option '--app-id'.")
    settings = settings_of(lambda: sidecar_settings(values))
    configure_logs(settings.log_level, as_json=settings.log_as_json)
    if ignored:
        from scheduler.logs import get_logger

        get_logger("sidecar").warning("flags_without_effect", flags=", ".join(f"--{name}" for name in ignored))
    from scheduler.aio.clock import SystemClock
    from scheduler.metrics import ProcessStatistics
    from scheduler.sidecar import app

    statistics, clock = ProcessStatistics(), SystemClock()

    def note(taken: bool) -> None:
        statistics.note_settings(clock.wall_ns() * 1e-9, taken=taken)

    note(True)
    work = app.run(settings, command, process=statistics)
    run(following(ctx, settings, work, fixed=before, make=sidecar_settings, note=note))


def sidecar_settings(values: dict[str, Any]) -> SidecarSettings:
    """The settings that the values of `sidecar` make. Raises ConfigError."""
    others = {config_file.PARAMETER, "wait", *(name.replace("-", "_") for name in _WITHOUT_EFFECT)}
    values = {name: value for name, value in values.items() if name not in others}
    values["scheduler_host_address"] = addresses(values["scheduler_host_address"])
    values["metrics_namespace"] = os.environ.get("NAMESPACE", "")
    values["disable_h2c"] = os.environ.get("DAPR_HTTP_DISABLE_H2C", "").lower() in {"1", "t", "true", "y", "yes", "on"}
    for name in ("dapr_api_token", "app_api_token"):
        values[name] = _token(name, values[name], values[f"{name}_file"])
    return SidecarSettings(**values)


def _token(name: str, value: str, file: Path | None) -> str:
    """A token: from its file, or by the variable that the reference's injector sets."""
    flag, variable = f"--{name.replace('_', '-')}-file", name.upper()
    if value and value != os.environ.get(variable):
        raise ConfigError(
            f"a secret is taken from a file alone: write it into one, and give {flag} (or ${variable}, as the reference has it)"
        )
    if file is None:
        return value
    if value:
        raise ConfigError(f"{flag} and ${variable}: one of them")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag}: {error}") from error


def addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    """The schedulers' addresses, with the usual port where there is none; one that is empty but for quotes and blanks says that there are none."""
    bare = (part.strip("\"' \t") for value in values for part in value.split(","))
    return tuple(one if ":" in one else f"{one}:50006" for one in bare if one)


def _wait(port: int) -> int:
    """Until the sidecar's API is up."""
    from urllib.error import URLError
    from urllib.request import urlopen

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urlopen(f"http://127.0.0.1:{port}/v1.0/healthz/outbound", timeout=2) as answer:
                if answer.status == 204:
                    return 0
        except (URLError, OSError):
            pass
        time.sleep(0.1)
    click.echo(f"scheduler: no sidecar is up on 127.0.0.1:{port} within a minute", err=True)
    return 1
