"""`scheduler job`: jobs from the command line, through any scheduler replica."""

import json
from typing import Any

import click
from google.protobuf.json_format import ParseError

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.cli.endpoint import Endpoint, endpoint_options, run_or_explain
from scheduler.cli.job_document import document_of, pack_value
from scheduler.cli.output import fail, output_option, print_document, print_table, show

_SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
_TIMEOUT_S = 10.0


def _call(endpoint: Endpoint, method: str, request: Any) -> bytes:
    """One RPC."""

    async def call() -> bytes:
        channel = endpoint.connect(endpoint.address)
        try:
            return await channel.unary(f"{_SERVICE}/{method}", request.SerializeToString(), timeout_s=_TIMEOUT_S)
        finally:
            await channel.close()

    return run_or_explain(endpoint, call())


def _metadata(namespace: str, app_id: str) -> pb.JobMetadata:
    return pb.JobMetadata(namespace=namespace, app_id=app_id, target=pb.JobTargetMetadata(job=pb.TargetJob()))


@click.group()
def job() -> None:
    """Schedule, look at and delete jobs."""


@job.command()
@click.argument("name")
@endpoint_options
@click.option("--schedule", default=None, help='Six-field cron, "@every 5m", "@daily", ...')
@click.option("--due-time", default=None, help="First or only time: RFC 3339, or a duration such as 30s.")
@click.option("--repeats", type=int, default=None, help="How many times it fires.")
@click.option("--ttl", default=None, help="When it ends: RFC 3339, or a duration.")
@click.option("--data", default=None, help="Payload, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace a job of that name.")
def schedule(
    name: str, endpoint: Endpoint, namespace: str, app_id: str, overwrite: bool, data: str | None, **times: Any
) -> None:
    """Schedule the job NAME.

    Example: scheduler job schedule prod-db-backup --app-id backup --schedule "@every 1m" --data '{"db": "my-prod-db"}'
    """
    message = pb.Job(**{key: value for key, value in times.items() if value is not None})
    if data is not None:
        try:
            message.data.CopyFrom(pack_value(json.loads(data)))
        except (ValueError, ParseError) as error:
            fail(f"--data is no JSON: {error}")
    request = pb.ScheduleJobRequest(name=name, job=message, metadata=_metadata(namespace, app_id), overwrite=overwrite)
    _call(endpoint, "ScheduleJob", request)
    click.echo(f"scheduled {name}")


@job.command()
@click.argument("name")
@endpoint_options
@output_option
def get(name: str, endpoint: Endpoint, namespace: str, app_id: str, output: str) -> None:
    """Show the job NAME."""
    metadata = _metadata(namespace, app_id)
    answer = _call(endpoint, "GetJob", pb.GetJobRequest(name=name, metadata=metadata))
    found = document_of(pb.NamedJob(name=name, metadata=metadata, job=pb.GetJobResponse.FromString(answer).job))
    rows = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in found.items()]
    show(output, found, header=("FIELD", "VALUE"), rows=rows)


@job.command("list")
@endpoint_options
@output_option
def list_jobs(endpoint: Endpoint, namespace: str, app_id: str, output: str) -> None:
    """List an app's jobs."""
    answer = _call(endpoint, "ListJobs", pb.ListJobsRequest(metadata=_metadata(namespace, app_id)))
    jobs = pb.ListJobsResponse.FromString(answer).jobs
    if output != "table":
        print_document(output, [document_of(one) for one in jobs])
        return
    rows = ((one.name, one.job.schedule, one.job.due_time, one.job.repeats or None, one.job.ttl) for one in jobs)
    print_table(("NAME", "SCHEDULE", "DUE TIME", "REPEATS", "TTL"), rows)


@job.command()
@click.argument("name")
@endpoint_options
def delete(name: str, endpoint: Endpoint, namespace: str, app_id: str) -> None:
    """Delete the job NAME; one that is not there is no error."""
    _call(endpoint, "DeleteJob", pb.DeleteJobRequest(name=name, metadata=_metadata(namespace, app_id)))
    click.echo(f"deleted {name}")


@job.command("verify")
@endpoint_options
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds for everything.")
def verify_cluster(endpoint: Endpoint, namespace: str, app_id: str, timeout_s: float) -> None:
    """See that a cluster works: schedule a one-shot job, watch it fire, delete it.

    The job belongs to --app-id; take an id that no real app has.
    """
    from scheduler.cli.verify import verify

    metadata = _metadata(namespace, app_id)
    seen = run_or_explain(
        endpoint, verify(endpoint.address, connect=endpoint.connect, metadata=metadata, timeout_s=timeout_s)
    )
    click.echo(f"{len(seen.hosts)} replicas: {', '.join(seen.hosts)}")
    click.echo(f"a job was scheduled, fired on {seen.fired_on} after {seen.seconds * 1000:.0f} ms, and was deleted")
