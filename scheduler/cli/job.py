"""`scheduler job`: jobs from the command line, through any scheduler replica."""

import asyncio
import functools
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError, Status

_SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
_TIMEOUT_S = 10.0
_T = TypeVar("_T")


_PATH = click.Path(path_type=Path)


class _Endpoint(NamedTuple):
    """Which scheduler to ask, and how."""

    address: str
    tls_ca_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    tls_server_name: str | None

    def connect(self, address: str) -> Channel:
        """Raises OSError or ValueError."""
        if self.tls_ca_file is None and self.tls_cert_file is None:
            return Channel(address)
        from scheduler.identity.contexts import ClientTls, read_material

        tls = ClientTls(read_material(self.tls_cert_file, self.tls_key_file, self.tls_ca_file))
        return Channel(address, tls=tls, server_hostname=self.tls_server_name)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say whom to ask and for whom; the command gets `endpoint`, `namespace` and `app_id`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        endpoint = _Endpoint(**{name: values.pop(name) for name in _Endpoint._fields})
        return function(endpoint=endpoint, **values)

    wrapped: Callable[..., Any] = command
    for option in (
        click.option("--tls-server-name", default=None, help="Name in the scheduler's certificate, if not its host."),
        click.option("--tls-key-file", type=_PATH, default=None, help="Its key."),
        click.option("--tls-cert-file", type=_PATH, default=None, help="Our certificate, for mutual TLS."),
        click.option(
            "--tls-ca-file", type=_PATH, default=None, help="CA of the scheduler's certificate; turns TLS on."
        ),
        click.option("--address", default="127.0.0.1:50006", show_default=True, help="A scheduler's host:port."),
        click.option("--namespace", default="default", show_default=True, help="Namespace of the app."),
        click.option("--app-id", required=True, help="The app that the jobs belong to."),
    ):
        wrapped = option(wrapped)
    return wrapped


def _run(endpoint: _Endpoint, work: Coroutine[Any, Any, _T]) -> _T:
    """Errors become a line that says what to do."""
    try:
        return asyncio.run(work)
    except (ValueError, OSError) as error:
        click.echo(f"scheduler: --address: {error}", err=True)
    except RpcError as error:
        hint = ""
        if error.status is Status.UNAVAILABLE:
            hint = f"\nIs a scheduler running at {endpoint.address}? Start one with `scheduler serve`, or name another with --address."
        click.echo(f"scheduler: {error.message} ({error.status.name}){hint}", err=True)
    sys.exit(1)


def _call(endpoint: _Endpoint, method: str, request: Any) -> bytes:
    """One RPC."""

    async def call() -> bytes:
        channel = endpoint.connect(endpoint.address)
        try:
            return await channel.unary(f"{_SERVICE}/{method}", request.SerializeToString(), timeout_s=_TIMEOUT_S)
        finally:
            await channel.close()

    return _run(endpoint, call())


def _metadata(namespace: str, app_id: str) -> pb.JobMetadata:
    return pb.JobMetadata(namespace=namespace, app_id=app_id, target=pb.JobTargetMetadata(job=pb.TargetJob()))


def _shown(name: str, job: pb.Job) -> dict[str, Any]:
    return {"name": name, **MessageToDict(job)}


@click.group()
def job() -> None:
    """Schedule, look at and delete jobs."""


@job.command()
@click.argument("name")
@_options
@click.option("--schedule", default=None, help='Six-field cron, "@every 5m", "@daily", ...')
@click.option("--due-time", default=None, help="First or only time: RFC 3339, or a duration such as 30s.")
@click.option("--repeats", type=int, default=None, help="How many times it fires.")
@click.option("--ttl", default=None, help="When it ends: RFC 3339, or a duration.")
@click.option("--data", default=None, help="Payload, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace a job of that name.")
def schedule(
    name: str, endpoint: _Endpoint, namespace: str, app_id: str, overwrite: bool, data: str | None, **times: Any
) -> None:
    """Schedule the job NAME.

    Example: scheduler job schedule prod-db-backup --app-id backup --schedule "@every 1m" --data '{"db": "my-prod-db"}'
    """
    message = pb.Job(**{key: value for key, value in times.items() if value is not None})
    if data is not None:
        try:
            json.loads(data)
        except ValueError as error:
            click.echo(f"scheduler: --data is no JSON: {error}", err=True)
            sys.exit(1)
        from google.protobuf.json_format import Parse

        message.data.Pack(Parse(data, Value()))
    request = pb.ScheduleJobRequest(name=name, job=message, metadata=_metadata(namespace, app_id), overwrite=overwrite)
    _call(endpoint, "ScheduleJob", request)
    click.echo(f"scheduled {name}")


@job.command()
@click.argument("name")
@_options
def get(name: str, endpoint: _Endpoint, namespace: str, app_id: str) -> None:
    """Print the job NAME as JSON."""
    answer = _call(endpoint, "GetJob", pb.GetJobRequest(name=name, metadata=_metadata(namespace, app_id)))
    click.echo(json.dumps(_shown(name, pb.GetJobResponse.FromString(answer).job), indent=2))


@job.command("list")
@_options
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_jobs(endpoint: _Endpoint, namespace: str, app_id: str, output: str) -> None:
    """List an app's jobs."""
    answer = _call(endpoint, "ListJobs", pb.ListJobsRequest(metadata=_metadata(namespace, app_id)))
    jobs = pb.ListJobsResponse.FromString(answer).jobs
    if output == "json":
        click.echo(json.dumps([_shown(one.name, one.job) for one in jobs], indent=2))
        return
    rows = [("NAME", "SCHEDULE", "DUE TIME", "REPEATS", "TTL")]
    rows += [(one.name, one.job.schedule, one.job.due_time, str(one.job.repeats or ""), one.job.ttl) for one in jobs]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@job.command()
@click.argument("name")
@_options
def delete(name: str, endpoint: _Endpoint, namespace: str, app_id: str) -> None:
    """Delete the job NAME; one that is not there is no error."""
    _call(endpoint, "DeleteJob", pb.DeleteJobRequest(name=name, metadata=_metadata(namespace, app_id)))
    click.echo(f"deleted {name}")


@job.command("verify")
@_options
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds for everything.")
def verify_cluster(endpoint: _Endpoint, namespace: str, app_id: str, timeout_s: float) -> None:
    """See that a cluster works: schedule a one-shot job, watch it fire, delete it.

    The job belongs to --app-id; take an id that no real app has.
    """
    from scheduler.cli.verify import verify

    metadata = _metadata(namespace, app_id)
    seen = _run(endpoint, verify(endpoint.address, connect=endpoint.connect, metadata=metadata, timeout_s=timeout_s))
    click.echo(f"{len(seen.hosts)} replicas: {', '.join(seen.hosts)}")
    click.echo(f"a job was scheduled, fired on {seen.fired_on} after {seen.seconds * 1000:.0f} ms, and was deleted")
