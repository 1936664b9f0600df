"""`scheduler doctor`: looks at a cluster and at what it stands on, and says what to do where something is not well."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import click

from scheduler.aio.clock import SystemClock
from scheduler.cli.checks import Finding, Picture, Result, examine
from scheduler.cli.diagnosis import diagnose
from scheduler.cli.endpoint import Endpoint, connection_options, explain
from scheduler.cli.members import ClusterClient, Seen
from scheduler.cli.output import Exit, echo, output_option, print_document
from scheduler.config import ServeSettings, is_loopback
from scheduler.http2.client import parse_target
from scheduler.http2.grpc import RpcError, Status

_COLOURS = {Result.OK: "green", Result.WARN: "yellow", Result.FAIL: "red"}
# Ports that a replica takes unless it is told otherwise, by the flag that tells it.
_DEFAULTS = ServeSettings()
_PORTS = {
    "--port": _DEFAULTS.port,
    "--healthz-port": _DEFAULTS.healthz_port,
    "--metrics-port": _DEFAULTS.metrics_port,
    "--etcd-client-port": _DEFAULTS.etcd_client_port,
}


@click.command()
@connection_options
@output_option
def doctor(endpoint: Endpoint, output: str) -> None:
    """Look at a cluster and at what it stands on: members, partitions, etcd, clocks, names, certificates, limits.

    Ends with 0 where nothing failed (warnings are none), with 1 where something did, with 3 where no scheduler answers.
    """
    findings = asyncio.run(_look(endpoint))
    if output != "table":
        print_document(output, [_document(one) for one in findings])
    else:
        for one in findings:
            echo(
                f"{one.result:5} {one.check:11} {one.found}",
                fg=_COLOURS[one.result] if one.result is not Result.OK else None,
            )
            if one.advice:
                echo(f"{'':5} {'':11} -> {one.advice}")
    failed = [one.check for one in findings if one.result is Result.FAIL]
    if failed:
        raise SystemExit(Exit.UNREACHABLE if failed[0] == "server" else Exit.FAILED)


def _document(finding: Finding) -> dict[str, Any]:
    advice = {"advice": finding.advice} if finding.advice else {}
    return {"check": finding.check, "result": str(finding.result), "found": finding.found, **advice}


async def _look(endpoint: Endpoint) -> list[Finding]:
    """What there is to say. Raises nothing for what it finds."""
    try:
        async with ClusterClient(endpoint) as client:
            members = await client.survey(with_etcd=True)
            partitions, _ = await client.partitions()
            # Clocks are compared by calls that do nothing else, on connections that stand.
            again = {one.member.replica: one for one in await client.survey()}
            for number, one in enumerate(members):
                if (later := again.get(one.member.replica)) is not None:
                    members[number] = one._replace(ahead_s=later.ahead_s, within_s=later.within_s)
    except (RpcError, OSError, ValueError) as error:
        return await _unreachable(endpoint, error)
    reached = Finding("server", Result.OK, f"{endpoint.address} answers as a scheduler")
    picture = Picture(
        address=endpoint.address,
        tls=endpoint.tls_ca_file is not None,
        now_s=SystemClock().wall_ns() * 1e-9,
        members=members,
        partitions=partitions,
        unknown_hosts=await _unknown_hosts(members),
        certificate_ends_s=_own_certificate_ends(endpoint),
    )
    return [reached, *examine(picture)]


async def _unreachable(endpoint: Endpoint, error: Exception) -> list[Finding]:
    """No scheduler speaks to us: what is there instead, and whether one could be started here."""
    found = explain(error) if isinstance(error, RpcError) else str(error)
    advice = "look at --address and the --tls-... files"
    if isinstance(error, RpcError):
        if error.status is Status.UNIMPLEMENTED:
            advice = "it has no operators' API: upgrade it, or look at --address"
        elif error.status in {Status.PERMISSION_DENIED, Status.UNAUTHENTICATED}:
            return [Finding("permission", Result.FAIL, found, "see docs/security.md, Operators")]
        else:
            advice = await diagnose(endpoint, error)
    findings = [Finding("server", Result.FAIL, found, advice)]
    with suppress(ValueError):
        host, _ = parse_target(endpoint.address)
        if is_loopback(host):
            findings += _this_machine()
    return findings


def _this_machine() -> list[Finding]:
    """Whether a replica could be started here with what it takes by default."""
    findings = []
    for flag, port in _PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                text = f"{port} is not to be had here: {error.strerror}"
                findings.append(
                    Finding("ports", Result.WARN, text, f"free it, or give `scheduler serve` another {flag}")
                )
    if not findings:
        findings.append(
            Finding("ports", Result.OK, f"a replica's are free here: {', '.join(map(str, _PORTS.values()))}")
        )
    from scheduler.etcd.binary import EtcdBinaryMissing, find_etcd

    try:
        binary = find_etcd()
    except EtcdBinaryMissing as error:
        findings.append(Finding("etcd binary", Result.WARN, "none here", f"needed for --etcd-embed alone: {error}"))
    else:
        shown = ".".join(map(str, binary.version))
        result = Result.WARN if binary.warning else Result.OK
        findings.append(Finding("etcd binary", result, f"{binary.path}, {shown}", binary.warning or ""))
    return findings


async def _unknown_hosts(members: list[Seen]) -> dict[str, str]:
    unknown: dict[str, str] = {}
    loop = asyncio.get_running_loop()
    for host in dict.fromkeys(one.member.address.rpartition(":")[0].strip("[]") for one in members):
        try:
            await loop.getaddrinfo(host, None)
        except OSError as error:
            unknown[host] = error.strerror or str(error)
    return unknown


def _own_certificate_ends(endpoint: Endpoint) -> float | None:
    if endpoint.tls_cert_file is None:
        return None
    from scheduler.identity.certificates import Material

    ends = Material(certificate=endpoint.tls_cert_file.read_bytes()).expires()
    return ends.timestamp() if ends else None
