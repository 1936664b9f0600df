"""`scheduler sidecar`: the reference's flags (sidecar-and-jobs-api.md 9.3) for a process beside an app, or one that starts the app too."""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scheduler import __version__
from scheduler.cli.process import LEVELS, configure_logs, run, settings_of, split
from scheduler.config import APP_PROTOCOLS, SidecarSettings

_PATH = click.Path(path_type=Path)
_QUANTITY = re.compile(r"(\d+)(Ki|Mi|Gi|k|M|G|)")
_SCALE = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 1000, "M": 1000**2, "G": 1000**3}
# Of the reference's sidecar, for what this one does not do: taken, so that its command lines work as they are.
_WITHOUT_EFFECT = (
    "config", "resources-path", "components-path", "placement-host-address", "control-plane-address", "dapr-internal-grpc-port",
    "dapr-internal-grpc-listen-address", "disable-init-endpoints", "allowed-origins", "profile-port", "actors-service",
    "reminders-service",
)  # fmt: skip


def size(value: str) -> int:
    """Bytes, with Kubernetes' suffixes."""
    found = _QUANTITY.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is no size: bytes, or a number with Ki, Mi, Gi, k, M or G")
    return int(found[1]) * _SCALE[found[2]]


def duration(value: str) -> float:
    """Go's durations, in seconds."""
    from scheduler.core.duration import parse_go_duration

    try:
        return parse_go_duration(value) / 1e9
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no duration such as 10s: {error}") from error


def _option(*names: str, default: Any = None, help: str, **more: Any) -> Callable[[Any], Any]:  # noqa: A002 - click's word
    more.setdefault("show_default", default is not None)
    return click.option(*names, default=default, help=help, **more)


def _flag(name: str, *, default: bool = False, help: str) -> Callable[[Any], Any]:  # noqa: A002 - click's word
    return click.option(name, type=bool, is_flag=False, flag_value=True, default=default, show_default=True, help=help)


_OPTIONS = (
    _option("--app-id", help="The app's id: who its jobs belong to."),
    _option("--app-port", type=int, help="Port that the app listens on; without one no jobs are received."),
    _option("--app-protocol", type=click.Choice(APP_PROTOCOLS), default="http", help="How the app is told."),
    _option("--app-channel-address", default="127.0.0.1", help="Address that the app listens on."),
    _option("--app-max-concurrency", default=-1, help="Triggers at once at the app; -1: no limit."),
    _flag("--enable-app-health-check", help="Receive jobs only while the app says that it is healthy."),
    _option("--app-health-check-path", default="/healthz", help="Path that is probed over HTTP."),
    _option(
        "--app-health-probe-interval", "app_health_probe_interval_s", default=5.0, help="Seconds from probe to probe."
    ),
    _option("--app-health-probe-timeout", "app_health_probe_timeout_ms", default=500, help="Milliseconds for a probe."),
    _option("--app-health-threshold", default=3, help="Failures in a row that make the app unhealthy."),
    _option("--dapr-http-port", default=3500, help="Port of the HTTP Jobs API; 0: any free one."),
    _option("--dapr-grpc-port", default=50001, help="Port of the gRPC runtime API; 0: any free one."),
    _option("--dapr-public-port", type=int, help="A second HTTP port, for health and metadata alone."),
    _option("--dapr-listen-addresses", default="127.0.0.1", help="Listen addresses, comma separated."),
    _option("--unix-domain-socket", type=_PATH, help="Directory for Unix sockets, in place of the two ports."),
    _flag("--enable-metrics", default=True, help="Serve Prometheus metrics."),
    _option(
        "--metrics-port", type=int, help="Port of the metrics.  [default: 9090, or a free one where that is taken]"
    ),
    _option("--metrics-listen-address", default="127.0.0.1", help="Metrics listen address."),
    _option(
        "--scheduler-host-address",
        multiple=True,
        default=("localhost:50006",),
        envvar="DAPR_SCHEDULER_HOST_ADDRESS_DNS_A",
        help="Schedulers, comma separated or repeated; empty: none.",
    ),
    _option("--scheduler-job-streams", default=3, help="Streams per scheduler."),
    _option("--max-body-size", "max_body_size_bytes", type=size, default="4Mi", help="Largest request and message."),
    _option("--read-buffer-size", "read_buffer_size_bytes", type=size, default="4Ki", help="Largest request header."),
    _flag("--enable-api-logging", help="Log every call of the API."),
    _option(
        "--namespace",
        default=lambda: os.environ.get("NAMESPACE", "default"),
        show_default=False,
        help="The app's namespace.  [default: $NAMESPACE or default]",
    ),
    _option(
        "--dapr-api-token", default="", show_default=False, envvar="DAPR_API_TOKEN", help="Token that callers show."
    ),
    _option(
        "--app-api-token", default="", show_default=False, envvar="APP_API_TOKEN", help="Token that the app is shown."
    ),
    _option(
        "--dapr-graceful-shutdown-seconds",
        "graceful_shutdown_s",
        default=5.0,
        help="Seconds that the app has, at the end, for what it has begun.",
    ),
    _option(
        "--dapr-block-shutdown-duration",
        "block_shutdown_s",
        type=duration,
        default="0s",
        help="Go on for so long after SIGTERM, before stopping.",
    ),
    _option(
        "--mode",
        type=click.Choice(["standalone", "kubernetes"]),
        default="standalone",
        help="kubernetes: mutual TLS with the schedulers, always.",
    ),
    _flag("--enable-mtls", help="Mutual TLS with the schedulers, by Sentry unless files are given."),
    _option("--tls-cert-file", type=_PATH, help="Our certificate towards the schedulers; turns mutual TLS on."),
    _option("--tls-key-file", type=_PATH, help="Its key."),
    _option("--tls-ca-file", type=_PATH, help="CA of the schedulers' certificates."),
    _option("--sentry-address", default="", help="Sentry's host:port."),
    _option(
        "--sentry-token-file",
        type=_PATH,
        default=Path("/var/run/secrets/dapr.io/sentrytoken/token"),
        help="Token that proves us to Sentry.",
    ),
    _option(
        "--trust-anchors",
        default="",
        show_default=False,
        envvar="DAPR_TRUST_ANCHORS",
        help="Trust anchors (PEM), with Sentry.",
    ),
    _option("--trust-domain", default="public", help="The app's SPIFFE trust domain, with Sentry."),
    _option(
        "--control-plane-trust-domain",
        default="localhost",
        envvar="DAPR_CONTROLPLANE_TRUST_DOMAIN",
        help="SPIFFE trust domain that schedulers must be of.",
    ),
    _option(
        "--control-plane-namespace",
        default="default",
        envvar="DAPR_CONTROLPLANE_NAMESPACE",
        help="Namespace that schedulers must be of.",
    ),
    click.option("--allow-insecure", is_flag=True, help="Listen in plaintext on addresses other than loopback."),
    _option("--log-level", type=LEVELS, default="info", help="The least important lines that are logged."),
    _flag("--log-as-json", help="Log JSON."),
    click.option("--wait", is_flag=True, help="Only wait until a sidecar on --dapr-http-port is up, at most a minute."),
    *(click.option(f"--{name}", hidden=True, default=None) for name in _WITHOUT_EFFECT),
)


def _with_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


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
        _serve((), **values)
        return
    given = {name for name in values if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    ctx.default_map = {"run": {name: values[name] for name in given}}


@sidecar.command("run", cls=_Command)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@_with_options
def run_app(command: tuple[str, ...], **values: Any) -> None:
    """Run a sidecar and its app: COMMAND, behind `--`.

    \b
    Example: scheduler sidecar run --app-id backup --app-port 6002 -- python app.py

    The app finds DAPR_HTTP_PORT, DAPR_GRPC_PORT, DAPR_METRICS_PORT, APP_ID and APP_PORT in its environment. It is
    stopped with the sidecar; when it ends by itself, the sidecar ends too, with its exit code.
    """
    _serve(command, **values)


def _serve(command: tuple[str, ...], *, log_level: str, log_as_json: bool, wait: bool, **values: Any) -> None:
    if wait:
        sys.exit(_wait(values["dapr_http_port"]))
    ignored = [name for name in _WITHOUT_EFFECT if values.pop(name.replace("-", "_")) is not None]
    if values["app_id"] is None:
        raise click.UsageError("Missing option '--app-id'.")
    values["dapr_listen_addresses"] = split(values["dapr_listen_addresses"])
    values["scheduler_host_address"] = addresses(values["scheduler_host_address"])
    values["metrics_namespace"] = os.environ.get("NAMESPACE", "")
    values["disable_h2c"] = os.environ.get("DAPR_HTTP_DISABLE_H2C", "").lower() in {"1", "t", "true", "y", "yes", "on"}
    settings = settings_of(SidecarSettings, values)
    configure_logs(log_level, as_json=log_as_json)
    if ignored:
        from scheduler.logs import get_logger

        get_logger("sidecar").warning("flags_without_effect", flags=", ".join(f"--{name}" for name in ignored))
    from scheduler.sidecar import app

    run(app.run(settings, command))


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
