"""The command line: every command hangs below `main`. Imports are late, so that help is quick."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from scheduler import __version__
from scheduler.cli.bench import bench
from scheduler.cli.cluster import cluster
from scheduler.cli.completion import completion
from scheduler.cli.config import config
from scheduler.cli.doctor import doctor
from scheduler.cli.job import job
from scheduler.cli.output import EXIT_CODES
from scheduler.cli.process import run
from scheduler.cli.schedule import schedule
from scheduler.cli.serve import serve
from scheduler.cli.sidecar import sidecar
from scheduler.cli.top import top

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
main.add_command(completion)
main.add_command(config)
main.add_command(doctor)
main.add_command(job)
main.add_command(schedule)
main.add_command(serve)
main.add_command(sidecar)
main.add_command(top)
