"""The command line: every command hangs below `main`. Imports are late, so that help is quick."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from scheduler import __version__
from scheduler.cli import reference
from scheduler.cli.bench import bench
from scheduler.cli.cluster import cluster
from scheduler.cli.doctor import doctor
from scheduler.cli.job import job
from scheduler.cli.output import EXIT_CODES
from scheduler.cli.process import LEVELS, configure_logs, run, settings_of, split
from scheduler.cli.schedule import schedule
from scheduler.cli.sidecar import sidecar
from scheduler.cli.top import top
from scheduler.config import ServeSettings

_PATH = click.Path(path_type=Path)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SCHEDULER"}, epilog=EXIT_CODES
)
def main() -> None:
    """A distributed, clustered job scheduler on etcd that speaks Dapr's Scheduler and Jobs API.

    \b
    Try it:            scheduler dev
    Run one replica:   scheduler serve --etcd-embed=false --etcd-client-endpoints http://etcd:2379
    Beside your app:   scheduler sidecar --app-id shop --app-port 6002
    """


@main.command()
@click.option("--id", default="dapr-scheduler-server-0", show_default=True, help="This replica's name in the cluster.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    help="Replicas on this host, each a process and a member: ID-0 on --port, ID-1 on the next, and so on.",
)
@click.option("--port", default=50006, show_default=True, help="gRPC port; 0: any free one.")
@click.option("--listen-address", default="127.0.0.1", show_default=True, help="gRPC listen address.")
@click.option(
    "--override-broadcast-host-port", default="", help="host:port that sidecars are told, if not the one listened on."
)
@click.option("--healthz-port", default=8080, show_default=True, help="Port of /healthz, /livez and /readyz.")
@click.option("--healthz-listen-address", default="127.0.0.1", show_default=True, help="Health listen address.")
@click.option(
    "--enable-metrics",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=True,
    show_default=True,
    help="Serve Prometheus metrics.",
)
@click.option("--metrics-port", default=9090, show_default=True, help="Port of the metrics.")
@click.option("--metrics-listen-address", default="127.0.0.1", show_default=True, help="Metrics listen address.")
@click.option(
    "--metrics-dapr-names",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=True,
    show_default=True,
    help="Serve metrics by the reference's names, too.",
)
@click.option(
    "--etcd-embed",
    type=bool,
    default=None,
    help="Run an etcd as a child process.  [default: unless endpoints are given]",
)
@click.option("--etcd-client-endpoints", default="", help="etcd endpoints, comma separated: http(s)://host:port.")
@click.option("--etcd-client-username", default="", help="etcd user.")
@click.option("--etcd-client-password-file", type=_PATH, default=None, help="File with the etcd user's password.")
@click.option("--etcd-ca-file", type=_PATH, default=None, help="CA that etcd's certificate is checked against.")
@click.option("--etcd-cert-file", type=_PATH, default=None, help="Our certificate towards etcd.")
@click.option("--etcd-key-file", type=_PATH, default=None, help="Its key.")
@click.option(
    "--etcd-data-dir",
    type=_PATH,
    default=Path("data"),
    show_default=True,
    help="Data of the embedded etcd; lease file.",
)
@click.option(
    "--etcd-client-port", default=2379, show_default=True, help="Client port of the embedded etcd; 0: any free one."
)
@click.option(
    "--etcd-max-txn-ops", default=128, show_default=True, help="Operations per transaction, as etcd is configured."
)
@click.option(
    "--etcd-max-request-bytes", default=1_572_864, show_default=True, help="Largest request, as etcd is configured."
)
@click.option("--etcd-root", default="/scheduler", show_default=True, help="Root of all our keys.")
@click.option("--partitions", default=128, show_default=True, help="Partitions of a new cluster; fixed for its life.")
@click.option(
    "--lease-ttl", "lease_ttl_s", default=5, show_default=True, help="Seconds until a dead replica's work moves."
)
@click.option("--max-connections", default=10_000, show_default=True, help="gRPC connections; more are refused.")
@click.option(
    "--max-message-bytes",
    type=int,
    default=None,
    show_default="4 MiB, or --etcd-max-request-bytes where that is more",
    help="Largest gRPC message that is taken.",
)
@click.option("--in-flight-per-stream", default=8192, show_default=True, help="Unanswered triggers per stream.")
@click.option(
    "--ack-timeout",
    "ack_timeout_s",
    default=0.0,
    show_default=True,
    help="Seconds after which a trigger that is not answered counts as failed; 0: never, as in the reference.",
)
@click.option(
    "--commit-window", default=16384, show_default=True, help="Results that may wait for etcd before firing stops."
)
@click.option(
    "--drain-timeout",
    "drain_timeout_s",
    default=8.0,
    show_default=True,
    help="Seconds for handing partitions over at SIGTERM.",
)
@click.option(
    "--mode",
    type=click.Choice(["standalone", "kubernetes"]),
    default="standalone",
    show_default=True,
    help="kubernetes: mutual TLS always, and jobs go with their namespace.",
)
@click.option("--kubeconfig", type=_PATH, default=None, help="How to reach Kubernetes, if not by the pod's account.")
@click.option("--namespace", envvar="NAMESPACE", default="default", show_default=True, help="Our own namespace.")
@click.option(
    "--tls-enabled",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=False,
    show_default=True,
    help="Mutual TLS, by Sentry unless files are given.",
)
@click.option("--tls-cert-file", type=_PATH, default=None, help="Our certificate; turns TLS on.")
@click.option("--tls-key-file", type=_PATH, default=None, help="Its key.")
@click.option(
    "--tls-ca-file", type=_PATH, default=None, help="CA of the clients; turns mutual TLS with SPIFFE identities on."
)
@click.option("--sentry-address", default="", help="Sentry's host:port.  [default: dapr-sentry.NAMESPACE.svc:443]")
@click.option(
    "--sentry-token-file",
    type=_PATH,
    default=Path("/var/run/secrets/dapr.io/sentrytoken/token"),
    show_default=True,
    help="Token that proves us to Sentry.",
)
@click.option(
    "--sentry-identity",
    envvar="SENTRY_LOCAL_IDENTITY",
    default="dapr-scheduler",
    show_default=True,
    help="App id that we ask Sentry for.",
)
@click.option(
    "--trust-anchors-file",
    type=_PATH,
    default=Path("/var/run/secrets/dapr.io/tls/ca.crt"),
    show_default=True,
    help="Trust anchors, with Sentry.",
)
@click.option(
    "--trust-domain", default="localhost", show_default=True, help="SPIFFE trust domain of the control plane."
)
@click.option(
    "--app-trust-domains", default="public", show_default=True, help="SPIFFE trust domains of apps, comma separated."
)
@click.option(
    "--admin-identities",
    default="",
    help="Who may steer the cluster under mutual TLS: SPIFFE identities, * for any part, comma separated.  [default: nobody]",
)
@click.option("--allow-insecure", is_flag=True, help="Serve plaintext on addresses other than loopback.")
@click.option("--log-level", type=LEVELS, default="info", show_default=True)
@click.option("--log-as-json", type=bool, is_flag=False, flag_value=True, default=False, show_default=True)
@click.option("--log-file", type=_PATH, default=None, help="Write the log there instead of to standard error.")
@reference.options
def serve(log_level: str, log_as_json: bool, log_file: Path | None, **values: Any) -> None:
    """Run one scheduler replica.

    Without endpoints it runs an etcd of its own, which suits one machine. Replicas of one cluster share etcd, and
    each has an --id of its own.
    """
    values["etcd_client_endpoints"] = split(values["etcd_client_endpoints"])
    values["app_trust_domains"] = split(values["app_trust_domains"])
    values["admin_identities"] = split(values["admin_identities"])
    if values["etcd_embed"] is None:
        values["etcd_embed"] = not values["etcd_client_endpoints"]
    ignored: list[str] = []
    settings = settings_of(lambda **flags: ServeSettings(**reference.take(flags, ignored)), values)
    configure_logs(log_level, as_json=log_as_json, file=log_file)
    if settings.processes > 1:
        from scheduler.processes import Processes

        # Each replica gets the flags and the environment that we got; the last one of a flag counts.
        run(Processes(settings, [sys.executable, "-m", "scheduler", *sys.argv[1:], "--processes=1"]).run())
        return
    from scheduler import app
    from scheduler.aio.turns import TurnTimer
    from scheduler.logs import get_logger
    from scheduler.metrics import ProcessStatistics

    for flag in ignored:
        get_logger("cli").warning("flag_without_effect", flag=flag, reason=reference.reason(flag))

    statistics = ProcessStatistics()
    run(app.run(settings, statistics), loop=lambda: asyncio.SelectorEventLoop(TurnTimer(statistics.turn)))


@main.command()
@click.option("--replicas", default=3, show_default=True, help="Scheduler replicas.")
@click.option(
    "--data-dir",
    type=_PATH,
    default=None,
    help="Keep etcd's data and the logs here.  [default: a directory that is removed]",
)
@click.option("--exit-after-summary", is_flag=True, help="Stop by itself after the example's summary.")
def dev(replicas: int, data_dir: Path | None, exit_after_summary: bool) -> None:
    """Run everything on this machine: an etcd, replicas, a sidecar, and an example app that receives its triggers.

    Ctrl-C stops it all.
    """
    from scheduler import dev as development

    run(development.run(replicas=replicas, data_dir=data_dir, exit_after_summary=exit_after_summary))


@main.command()
@click.option("--ca-file", type=_PATH, required=True, help="The authority's certificate.")
@click.option("--ca-key-file", type=_PATH, required=True, help="The authority's key.")
@click.option("--app-id", required=True, help="Whose certificate it is.")
@click.option("--namespace", default="default", show_default=True, help="Namespace of the app.")
@click.option("--trust-domain", default="public", show_default=True, help="SPIFFE trust domain of the app.")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it holds.")
@click.option("--out", type=_PATH, default=Path(), help="Directory of tls.crt, tls.key and ca.crt.  [default: here]")
def certificate(
    ca_file: Path, ca_key_file: Path, app_id: str, namespace: str, trust_domain: str, days: int, out: Path
) -> None:
    """Issue a client certificate from an authority of your own, for mutual TLS."""
    from scheduler.aio.clock import SystemClock
    from scheduler.identity.issue import issue_client_certificate

    try:
        material = issue_client_certificate(
            ca_file=ca_file,
            ca_key_file=ca_key_file,
            spiffe_id=f"spiffe://{trust_domain}/ns/{namespace}/{app_id}",
            now=datetime.fromtimestamp(SystemClock().wall_ns() * 1e-9, UTC),
            days=days,
        )
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (
            ("tls.crt", material.certificate),
            ("tls.key", material.key),
            ("ca.crt", material.anchors),
        ):
            path = out / name
            path.touch(mode=0o600)
            path.write_bytes(content)
    except (OSError, ValueError) as error:
        click.echo(f"scheduler: {error}", err=True)
        sys.exit(1)
    click.echo(f"wrote {out / 'tls.crt'}, {out / 'tls.key'} and {out / 'ca.crt'}")


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"scheduler {__version__}")


main.add_command(bench)
main.add_command(cluster)
main.add_command(doctor)
main.add_command(job)
main.add_command(schedule)
main.add_command(sidecar)
main.add_command(top)
