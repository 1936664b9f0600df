"""`scheduler cluster`: members, partitions and etcd as the replicas see them, and the order to drain one."""

import asyncio
from typing import Any

import click

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler.cli.endpoint import Endpoint, connection_options, run_or_explain
from scheduler.cli.members import ClusterClient, Seen, lateness_ms
from scheduler.cli.output import (
    duration,
    echo,
    fail,
    instant,
    milliseconds,
    output_option,
    print_document,
    print_table,
    say,
    show,
    size,
)
from scheduler.http2.grpc import RpcError, Status

_POLL_S = 0.1


@click.group()
def cluster() -> None:
    """See how a cluster is, and drain its members.

    Needs an identity of --admin-identities; without TLS, the replica's own machine.
    """


@cluster.command()
@connection_options
@output_option
def status(endpoint: Endpoint, output: str) -> None:
    """Show every member, who is late with what, and etcd."""

    async def ask() -> tuple[list[Seen], list[pb.Partition]]:
        async with ClusterClient(endpoint) as client:
            return await client.survey(with_etcd=True), (await client.partitions())[0]

    seen, partitions = run_or_explain(endpoint, ask())
    unowned = [one.number for one in partitions if not one.owner]
    etcd = {one.endpoint: one for each in seen if each.status for one in each.status.etcd}
    if output != "table":
        document = {
            "members": [member_document(one) for one in seen],
            "partitions": {"count": len(partitions), "unowned": unowned},
            "etcd": [_etcd_document(one) for _, one in sorted(etcd.items())],
        }
        print_document(output, document)
        return
    header = ("REPLICA", "STATE", "READY", "PARTITIONS", "JOBS", "STREAMS", "IN FLIGHT", "STAGED", "UNCOMMITTED")
    print_table((*header, "LATE P50", "LATE P99", "UP", "VERSION"), [_member_row(one) for one in seen])
    for one in seen:
        if one.problem:
            echo(f"{one.member.replica} at {one.member.address} does not answer: {one.problem}", fg="red")
    click.echo("")
    missing = f"; nobody owns {_numbers(unowned)}" if unowned else ""
    echo(
        f"{len(partitions)} partitions, {len(partitions) - len(unowned)} owned{missing}", fg="red" if unowned else None
    )
    click.echo("")
    print_table(
        ("ETCD", "VERSION", "LEADER", "REVISION", "SIZE", "IN USE", "QUOTA", "ANSWER", "PROBLEM"),
        [_etcd_row(one) for _, one in sorted(etcd.items())],
    )


@cluster.command()
@connection_options
@output_option
def members(endpoint: Endpoint, output: str) -> None:
    """List the members, as the replica at --address sees them."""

    async def ask() -> list[pb.Member]:
        async with ClusterClient(endpoint) as client:
            return await client.members()

    listed = run_or_explain(endpoint, ask())
    rows = [
        (
            one.replica, one.address, one.state, one.partitions, one.joined_revision, instant(one.started_unix_ms),
            one.version,
        )
        for one in listed
    ]  # fmt: skip
    header = ("REPLICA", "ADDRESS", "STATE", "PARTITIONS", "JOINED AT REVISION", "STARTED", "VERSION")
    show(output, [_listed_document(one) for one in listed], header=header, rows=rows)


@cluster.command()
@connection_options
@click.option("--owner", default=None, help="Only those of this replica.")
@click.option("--unowned", is_flag=True, help="Only those that nobody owns.")
@output_option
def partitions(endpoint: Endpoint, owner: str | None, unowned: bool, output: str) -> None:
    """List the partitions: who owns each, and how it is."""

    async def ask() -> tuple[list[pb.Partition], dict[str, str]]:
        async with ClusterClient(endpoint) as client:
            return await client.partitions()

    found, problems = run_or_explain(endpoint, ask())
    chosen = [one for one in found if (owner is None or one.owner == owner) and not (unowned and one.owner)]
    for name, problem in problems.items():
        say(f"{name} does not answer, so nothing is known of what its partitions hold: {problem}")
    rows = [(one.number, one.owner or "-", one.epoch or None, one.owned.phase, *_counts(one)) for one in chosen]
    header = ("PARTITION", "OWNER", "EPOCH", "PHASE", "JOBS", "IN FLIGHT", "UNCOMMITTED")
    show(output, [_partition_document(one) for one in chosen], header=header, rows=rows)


@cluster.command()
@click.argument("replica")
@connection_options
@click.option("--undrain", is_flag=True, help="Let it take partitions again.")
@click.option("--force", is_flag=True, help="Even where no other member serves, so that nothing fires.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it owns nothing, or serves again.")
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds to wait.")
def drain(endpoint: Endpoint, replica: str, undrain: bool, force: bool, wait: bool, timeout_s: float) -> None:
    """Let the member REPLICA hand its partitions over, and take none until it is undrained or restarted.

    It stays a member: sidecars stay connected, and it takes API calls. Jobs are neither lost nor late by more than
    a hand-over takes.
    """

    async def order() -> tuple[bool, pb.Member]:
        async with ClusterClient(endpoint) as client:
            member = _find(await client.members(), replica)
            request = pb.DrainMemberRequest(replica=replica, undrain=undrain, force=force)
            try:
                await client.call(client.address(member), "DrainMember", request, pb.DrainMemberResponse)
            except RpcError as error:
                if error.status not in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}:
                    raise
                text = (
                    f"{replica} is a member, but does not answer from here at {client.address(member)}: {error.message}"
                )
                raise RpcError(Status.ABORTED, text) from error
            deadline = asyncio.get_running_loop().time() + timeout_s
            while True:
                member = _find(await client.members(), replica)
                done = member.state == "serving" if undrain else member.state == "draining" and not member.partitions
                if done or not wait or asyncio.get_running_loop().time() > deadline:
                    return done, member
                await asyncio.sleep(_POLL_S)

    done, member = run_or_explain(endpoint, order())
    if undrain and done:
        click.echo(f"{replica} takes part again")
    elif done:
        click.echo(f"{replica} is drained: it owns no partition, and takes none until it is undrained or restarted")
    else:
        so_far = f"{replica} is {member.state} and owns {member.partitions} partitions"
        if wait:
            fail(f"after {timeout_s:g} s {so_far}; it goes on, see `scheduler cluster members`")
        click.echo(so_far)


def _find(members: list[pb.Member], replica: str) -> pb.Member:
    """The member of that name. Raises RpcError NOT_FOUND."""
    for one in members:
        if one.replica == replica:
            return one
    names = ", ".join(one.replica for one in members)
    raise RpcError(Status.NOT_FOUND, f"there is no member {replica!r}; there are {names}")


def _counts(one: pb.Partition) -> tuple[int | None, int | None, int | None]:
    if not one.HasField("owned"):
        return None, None, None
    return one.owned.jobs, one.owned.in_flight, one.owned.uncommitted


def _member_row(seen: Seen) -> tuple[object, ...]:
    member, status = seen.member, seen.status
    if status is None:
        return (member.replica, member.state, "?", member.partitions, *[None] * 8, member.version)
    up = duration(status.process.wall_unix_ns / 1e9 - member.started_unix_ms / 1000)
    load = status.load
    state = "drained" if status.drained and not member.partitions else member.state
    ready = "yes" if status.ready else f"no: {status.not_ready}"
    late = (milliseconds(lateness_ms([status.totals], share)) for share in (0.5, 0.99))
    counts = (load.jobs, load.streams, load.in_flight, load.staged, load.uncommitted)
    return (member.replica, state, ready, member.partitions, *counts, *late, up, member.version)


def member_document(seen: Seen) -> dict[str, Any]:
    """One member for programs; without `load` where it does not answer, and `problem` says why."""
    document = _listed_document(seen.member)
    status = seen.status
    if status is None:
        return {**document, "problem": seen.problem}
    load, totals = status.load, status.totals
    return {
        **document,
        "ready": status.ready,
        **({} if status.ready else {"notReady": status.not_ready}),
        "drained": status.drained,
        "lease": {"id": f"{status.lease_id:x}", "trustedSeconds": round(status.lease_trusted_s, 3)},
        "load": {
            "jobs": load.jobs,
            "streams": load.streams,
            "inFlight": load.in_flight,
            "staged": load.staged,
            "uncommitted": load.uncommitted,
            "oldestDueSeconds": round(load.oldest_due_s, 3),
        },
        "totals": {
            "sent": totals.sent,
            "succeeded": totals.succeeded,
            "failed": totals.failed,
            "undeliverable": totals.undeliverable,
            "jobsCreated": totals.jobs_created,
            "jobsDeleted": totals.jobs_deleted,
            "commits": totals.commits,
            "latenessMilliseconds": {
                name: _rounded(lateness_ms([totals], share)) for name, share in (("p50", 0.5), ("p99", 0.99))
            },
        },
    }


def _listed_document(member: pb.Member) -> dict[str, Any]:
    return {
        "replica": member.replica,
        "address": member.address,
        "state": member.state,
        "version": member.version,
        "started": instant(member.started_unix_ms),
        "joinedRevision": member.joined_revision,
        "partitions": member.partitions,
    }


def _partition_document(one: pb.Partition) -> dict[str, Any]:
    document: dict[str, Any] = {"partition": one.number, "owner": one.owner or None}
    if one.owner:
        document.update(epoch=one.epoch, lease=f"{one.lease_id:x}")
    if one.HasField("owned"):
        owned = one.owned
        document.update(phase=owned.phase, jobs=owned.jobs, inFlight=owned.in_flight, uncommitted=owned.uncommitted)
    return document


def _etcd_document(one: pb.EtcdEndpoint) -> dict[str, Any]:
    if one.problem:
        return {"endpoint": one.endpoint, "problem": one.problem}
    return {
        "endpoint": one.endpoint,
        "version": one.version,
        "leader": one.leader,
        "revision": one.revision,
        "bytes": one.db_bytes,
        "bytesInUse": one.db_used_bytes,
        "quotaBytes": one.quota_bytes or None,
        "errors": list(one.errors),
        "answerMilliseconds": round(one.answer_s * 1000, 1),
    }


def _etcd_row(one: pb.EtcdEndpoint) -> tuple[object, ...]:
    if one.problem:
        return (one.endpoint, *[None] * 7, one.problem)
    sizes = (size(one.db_bytes), size(one.db_used_bytes), size(one.quota_bytes) if one.quota_bytes else "?")
    leader = "yes" if one.leader else "no"
    return (
        one.endpoint,
        one.version,
        leader,
        one.revision,
        *sizes,
        milliseconds(one.answer_s * 1000),
        "; ".join(one.errors),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _numbers(numbers: list[int]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"
