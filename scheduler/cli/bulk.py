"""`scheduler job export|import|delete-all`: many jobs at once. docs/commands.md has the format, and what it cannot carry."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.cli.endpoint import Endpoint, connection_options, endpoint_options, explain, run_or_explain
from scheduler.cli.job_document import BadDocument, document_of, request_of
from scheduler.cli.output import Exit, fail, printable, progress, say
from scheduler.core.errors import InvalidJob
from scheduler.core.schedule import resolve
from scheduler.core.timestamps import parse_rfc3339
from scheduler.http2.client import Channel, ConnectError
from scheduler.http2.grpc import RpcError, Status

_SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
_TIMEOUT_S = 30.0
# As many as one group commit of a replica takes without waiting, and few enough for a single connection.
_AT_ONCE = 128
_TRIES, _FIRST_PAUSE_S = 6, 0.2
_DELETED_SHOWN = 20

prefix_option = click.option("--prefix", default="", help="Only jobs whose names begin so.")


async def _list(endpoint: Endpoint, metadata: pb.JobMetadata, prefix: str) -> list[pb.NamedJob]:
    channel = endpoint.connect(endpoint.address)
    try:
        request = pb.ListJobsRequest(metadata=metadata).SerializeToString()
        answer = await channel.unary(f"{_SERVICE}/ListJobs", request, timeout_s=_TIMEOUT_S)
    finally:
        await channel.close()
    return [one for one in pb.ListJobsResponse.FromString(answer).jobs if one.name.startswith(prefix)]


def _metadata(namespace: str, app_id: str) -> pb.JobMetadata:
    return pb.JobMetadata(namespace=namespace, app_id=app_id, target=pb.JobTargetMetadata(job=pb.TargetJob()))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@endpoint_options
@prefix_option
def export(file: Path, endpoint: Endpoint, namespace: str, app_id: str, prefix: str) -> None:
    """Write an app's jobs to FILE (-: standard output), a line of JSON each, for `job import`.

    It says what the lines cannot carry: how often a job has fired, and when a time that is given as a duration began to count.
    """
    jobs = run_or_explain(endpoint, _list(endpoint, _metadata(namespace, app_id), prefix))
    jobs.sort(key=lambda one: one.name)
    lines = (json.dumps(document_of(one), ensure_ascii=False) + "\n" for one in jobs)
    try:
        if str(file) == "-":
            sys.stdout.writelines(lines)
        else:
            # Whole or not at all: half an export looks like one.
            part = file.with_name(f"{file.name}.part")
            with part.open("w", encoding="utf-8") as out, progress("exporting", len(jobs)) as advance:
                for line in lines:
                    out.write(line)
                    advance()
            part.replace(file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    say(f"exported {len(jobs):,} jobs of {printable(app_id)} in {printable(namespace)}")
    counted = sum(one.job.HasField("repeats") for one in jobs)
    if counted:
        say(
            f"note: {counted:,} have a number of repeats; how many are left is not exported: an import begins to count anew"
        )
    durations = sum(_counts_from_import(one.job) for one in jobs)
    if durations:
        say(f"note: {durations:,} have a due time or ttl that is a duration; it counts from the import on")


def _counts_from_import(job: pb.Job) -> bool:
    for text in (job.due_time, job.ttl):
        try:
            if text:
                parse_rfc3339(text)
        except ValueError:
            return True
    return False


class _Line(NamedTuple):
    """A job to import, and where it stands."""

    number: int
    request: pb.ScheduleJobRequest


class _Import:
    """One import: what came of its lines."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0

    def refuse(self, number: int, problem: str) -> None:
        """A line that cannot be imported; the others go on."""
        self.failed += 1
        say(f"line {number}: {printable(problem)}")

    def read(
        self, lines: Iterable[bytes], make: Callable[[object], pb.ScheduleJobRequest], now_ns: int
    ) -> Iterator[_Line]:
        """The lines that are jobs; the others are refused."""
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                request = make(json.loads(text))
                _check(request.job, now_ns)
            except BadDocument as error:
                self.refuse(number, str(error))
            except InvalidJob as error:
                self.refuse(number, f"{error.field}: {error.message}")
            except (ValueError, RecursionError) as error:
                self.refuse(number, f"is no JSON: {error}")
            else:
                yield _Line(number, request)

    async def send(self, endpoint: Endpoint, lines: list[_Line], advance: Callable[[], object]) -> None:
        """Schedule all. Raises RpcError where no server answers any more."""
        channel = endpoint.connect(endpoint.address)
        waiting = iter(lines)

        async def work() -> None:
            for line in waiting:
                try:
                    await _schedule(channel, line.request, patient=self.done > 0)
                    self.done += 1
                except RpcError as error:
                    if error.status is Status.UNAVAILABLE:
                        raise
                    self.refuse(line.number, f"{explain(error)}{_hint(error)}")
                advance()

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(_AT_ONCE, len(lines))):
                    tasks.create_task(work())
        except* RpcError as group:
            raise group.exceptions[0] from None
        finally:
            await channel.close()


def _check(job: pb.Job, now_ns: int) -> None:
    """The server's own rules, so that a file can be checked without one. Raises InvalidJob."""
    values = {
        name: getattr(job, name) if job.HasField(name) else None for name in ("schedule", "repeats", "due_time", "ttl")
    }
    resolve(**values, now_ns=now_ns)


def _hint(error: RpcError) -> str:
    return "; --overwrite replaces it" if error.status is Status.ALREADY_EXISTS else ""


async def _schedule(channel: Channel, request: pb.ScheduleJobRequest, *, patient: bool) -> None:
    """One job. It is sent again only where the server surely has not taken it, or where twice is as good as once.

    `patient`: there has been a server, so it may come back.
    """
    data, pause_s = request.SerializeToString(), _FIRST_PAUSE_S
    for tries_left in reversed(range(_TRIES)):
        try:
            await channel.unary(f"{_SERVICE}/ScheduleJob", data, timeout_s=_TIMEOUT_S)
        except RpcError as error:
            refused = isinstance(error, ConnectError) or error.status in {Status.CANCELLED, Status.RESOURCE_EXHAUSTED}
            again = refused or (request.overwrite and error.status in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED})
            if not (patient and again and tries_left):
                raise
            await asyncio.sleep(pause_s)
            pause_s *= 2
        else:
            return


@click.command("import")
@click.argument("file", type=click.File("rb"))
@connection_options
@click.option("--namespace", default=None, help="Namespace of the jobs, instead of the one that each line names.")
@click.option("--app-id", default=None, help="App of the jobs, instead of the one that each line names.")
@click.option("--overwrite", is_flag=True, help="Replace jobs that are there already.")
@click.option("--dry-run", is_flag=True, help="Only check the lines; no server is asked.")
def import_jobs(
    file: BinaryIO, endpoint: Endpoint, namespace: str | None, app_id: str | None, overwrite: bool, dry_run: bool
) -> None:
    """Schedule the jobs in FILE (-: standard input), as `job export` writes them: a line of JSON each.

    A line that cannot be imported is named with what is wrong, and the others go on; then the exit code is 1.
    """
    from scheduler.aio.clock import SystemClock

    work = _Import()
    lines = list(
        work.read(
            file,
            lambda document: request_of(document, namespace=namespace, app_id=app_id, overwrite=overwrite),
            SystemClock().wall_ns(),
        )
    )
    if dry_run:
        say(f"{len(lines):,} lines can be imported, {work.failed:,} cannot")
    elif lines:
        try:
            with progress("importing", len(lines)) as advance:
                run_or_explain(endpoint, work.send(endpoint, lines, advance))
        except SystemExit:
            say(f"imported {work.done:,} of {len(lines):,} jobs; import the file again with --overwrite for the rest")
            raise
    if not dry_run:
        say(f"imported {work.done:,} jobs, {work.failed:,} failed")
    if work.failed:
        sys.exit(Exit.FAILED)


@click.command("delete-all")
@endpoint_options
@prefix_option
@click.option("--dry-run", is_flag=True, help="Only tell which jobs there are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete_all(endpoint: Endpoint, namespace: str, app_id: str, prefix: str, dry_run: bool, yes: bool) -> None:
    """Delete all jobs of an app, or those whose names begin with --prefix."""
    metadata = _metadata(namespace, app_id)
    names = sorted(one.name for one in run_or_explain(endpoint, _list(endpoint, metadata, prefix)))
    what = f"{len(names):,} jobs of {printable(app_id)} in {printable(namespace)}"
    if dry_run:
        for name in names:
            click.echo(printable(name))
        say(f"would delete {what}")
        return
    if not names:
        say(f"there are no such jobs of {printable(app_id)} in {printable(namespace)}")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--yes is needed where nobody can be asked.")
        shown = [printable(name) for name in names[:_DELETED_SHOWN]]
        more = len(names) - len(shown)
        say("\n".join([*shown, *([f"... and {more:,} more"] if more else [])]))
        click.confirm(f"Delete {what}?", abort=True, err=True)
    run_or_explain(endpoint, _delete(endpoint, metadata, prefix))
    click.echo(f"deleted {what}")


async def _delete(endpoint: Endpoint, metadata: pb.JobMetadata, prefix: str) -> None:
    channel = endpoint.connect(endpoint.address)
    try:
        request = pb.DeleteByNamePrefixRequest(name_prefix=prefix, metadata=metadata).SerializeToString()
        await channel.unary(f"{_SERVICE}/DeleteByNamePrefix", request, timeout_s=_TIMEOUT_S)
    finally:
        await channel.close()
