"""`scheduler job`: jobs from the command line, through any scheduler replica."""

import json
import secrets
from typing import Any, BinaryIO

import click
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseError

from scheduler._pb.dapr.proto.common.v1.common_pb2 import JobFailurePolicy
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.scheduler_admin.v1 import admin_pb2
from scheduler.cli.bulk import delete_all, export, import_jobs
from scheduler.cli.endpoint import Endpoint, endpoint_options, run_or_explain
from scheduler.cli.job_document import document_of, pack_value
from scheduler.cli.output import fail, output_option, print_document, print_table, show
from scheduler.core.duration import parse_go_duration
from scheduler.core.trace_context import PROPAGATIONS

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
@click.option("--repeats", type=click.IntRange(0, (1 << 32) - 1), default=None, help="How many times it fires.")
@click.option("--ttl", default=None, help="When it ends: RFC 3339, or a duration.")
@click.option("--data", default=None, help="Payload, as JSON.")
@click.option("--data-file", type=click.File("rb"), default=None, help="File with the payload; -: standard input.")
@click.option("--raw", is_flag=True, help="The payload is no JSON: take its bytes as they are.")
@click.option(
    "--failure-policy",
    type=click.Choice(["constant", "drop"]),
    default=None,
    help="What happens when the app fails: try again at a constant interval, or give the occurrence up.  [default: constant, 1s, 3 times]",
)
@click.option("--retry-interval", default=None, help="Time between tries, such as 10s.  [default with constant: 0s]")
@click.option(
    "--max-retries",
    type=click.IntRange(0, (1 << 32) - 1),
    default=None,
    help="Tries after the first.  [default with constant: no limit]",
)
@click.option("--concurrency-key", default=None, help="Jobs of one key share a limit, where the app sets one.")
@click.option(
    "--tracing",
    type=click.Choice(PROPAGATIONS),
    default=None,
    help="How its triggers belong to the trace of this call, where one is kept.  [default: as the scheduler is told]",
)
@click.option("--overwrite", is_flag=True, help="Replace a job of that name.")
def schedule(
    name: str,
    endpoint: Endpoint,
    namespace: str,
    app_id: str,
    data: str | None,
    data_file: BinaryIO | None,
    raw: bool,
    failure_policy: str | None,
    retry_interval: str | None,
    max_retries: int | None,
    concurrency_key: str | None,
    overwrite: bool,
    **times: Any,
) -> None:
    """Schedule the job NAME.

    \b
    Examples:
      scheduler job schedule prod-db-backup --app-id backup --schedule "@every 1m" --data '{"db": "my-prod-db"}'
      scheduler job schedule report --app-id shop --due-time 2026-12-24T18:00:00Z --data-file report.json --failure-policy drop
    """
    message = pb.Job(**{key: value for key, value in times.items() if value is not None})
    if data is not None and data_file is not None:
        raise click.UsageError("--data and --data-file: one of them.")
    content = data_file.read() if data_file is not None else data.encode() if data is not None else None
    if content is not None:
        message.data.CopyFrom(_payload(content, raw=raw, flag="--data" if data is not None else "--data-file"))
    if failure_policy is not None or retry_interval is not None or max_retries is not None:
        message.failure_policy.CopyFrom(_policy(failure_policy, retry_interval, max_retries))
    metadata = _metadata(namespace, app_id)
    if concurrency_key is not None:
        metadata.concurrency_key = concurrency_key
    request = pb.ScheduleJobRequest(name=name, job=message, metadata=metadata, overwrite=overwrite)
    _call(endpoint, "ScheduleJob", request)
    click.echo(f"scheduled {name}")


def _payload(content: bytes, *, raw: bool, flag: str) -> AnyMessage:
    if raw:
        return AnyMessage(value=content)
    try:
        return pack_value(json.loads(content))
    except (ValueError, ParseError, RecursionError) as error:
        fail(f"{flag} is no JSON: {error}; with --raw its bytes are taken as they are")


def _policy(kind: str | None, interval: str | None, max_retries: int | None) -> JobFailurePolicy:
    if kind == "drop":
        if interval is not None or max_retries is not None:
            raise click.UsageError("--retry-interval and --max-retries go with --failure-policy constant.")
        return JobFailurePolicy(drop={})
    policy = JobFailurePolicy(constant={})
    if interval is not None:
        try:
            policy.constant.interval.FromNanoseconds(parse_go_duration(interval))
        except ValueError as error:
            fail(f"--retry-interval: {error}; 10s and 1m30s are")
    if max_retries is not None:
        policy.constant.max_retries = max_retries
    return policy


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


@job.command("run-now")
@click.argument("name")
@endpoint_options
def run_now(name: str, endpoint: Endpoint, namespace: str, app_id: str) -> None:
    """Fire the job NAME once, now, beside its schedule, which does not change.

    The app may do so for its own jobs, and an identity of --admin-identities for any. Where no sidecar of the app is
    connected, the trigger waits for one.
    """
    from scheduler.cli.members import ClusterClient

    request = admin_pb2.RunNowRequest(
        name=name, metadata=_metadata(namespace, app_id), request_id=secrets.token_hex(12)
    )

    async def call() -> admin_pb2.RunNowResponse:
        async with ClusterClient(endpoint) as client:
            return await client.call(endpoint.address, "RunNow", request, admin_pb2.RunNowResponse)

    run_or_explain(endpoint, call())
    click.echo(f"{name} fires now")


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


job.add_command(delete_all)
job.add_command(export)
job.add_command(import_jobs)
