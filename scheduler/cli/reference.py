"""Flags of the reference's scheduler that mean something to our embedded etcd, or nothing to us: whoever moves over keeps the command line.

docs/flags.md tells of every flag. What would be silently wrong is refused, with what to do instead; what has nothing to act on is accepted, and the
log says so.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import click

from scheduler.config import ConfigError, is_loopback
from scheduler.core.duration import parse_go_duration

F = TypeVar("F", bound=Callable[..., Any])


class _Quantity(click.ParamType[int]):
    """Bytes as Kubernetes writes them: 8Gi, 9.2E, 500M."""

    name = "quantity"

    def __init__(self) -> None:
        self._units = {"": 1, "k": 1000}
        for power, unit in enumerate("KMGTPE", 1):
            self._units[f"{unit}i"] = 1024**power
            self._units[unit] = 1000**power

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = str(value).rstrip("kKMGTPEi")
        try:
            return int(Decimal(number) * self._units[str(value)[len(number) :]])
        except (KeyError, ArithmeticError, ValueError):
            self.fail(f"{value!r} is no quantity; 8Gi, 500M and 1000000 are", param, ctx)


class _Duration(click.ParamType[str]):
    """A Go duration, for etcd to read."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_go_duration(str(value))
        except ValueError as error:
            self.fail(f"{error}; 100ms and 1s are", param, ctx)
        return str(value)


class _Embedded(NamedTuple):
    """A flag that is handed to the embedded etcd."""

    flag: str
    etcd_flag: str
    kind: click.ParamType[Any]
    text: str


_COUNT = click.IntRange(min=0)
_EMBEDDED = (
    _Embedded("--etcd-space-quota", "--quota-backend-bytes", _Quantity(), "largest database, such as 8Gi"),
    _Embedded("--etcd-compaction-mode", "--auto-compaction-mode", click.Choice(["revision", "periodic"]), "how history is kept"),
    _Embedded("--etcd-compaction-retention", "--auto-compaction-retention", click.STRING, "revisions, or a duration"),
    _Embedded("--etcd-snapshot-count", "--snapshot-count", _COUNT, "transactions between snapshots"),
    _Embedded("--etcd-max-snapshots", "--max-snapshots", _COUNT, "snapshot files kept"),
    _Embedded("--etcd-max-wals", "--max-wals", _COUNT, "log files kept"),
    _Embedded("--etcd-backend-batch-limit", "--backend-batch-limit", _COUNT, "operations before a sync of the database"),
    _Embedded("--etcd-backend-batch-interval", "--backend-batch-interval", _Duration(), "time before one"),
    _Embedded(
        "--etcd-experimental-bootstrap-defrag-threshold-megabytes",
        "--experimental-bootstrap-defrag-threshold-megabytes",
        _COUNT,
        "defragment at the start from so much free space on (etcd 3.5)",
    ),
    _Embedded("--etcd-initial-election-tick-advance", "--initial-election-tick-advance", click.BOOL, "elect sooner at the start"),
    _Embedded("--etcd-metrics", "--metrics", click.Choice(["basic", "extensive"]), "detail of its metrics"),
)  # fmt: skip
# Flags that have nothing to act on here, and why.
IGNORED = {
    "--workers": "there are no worker loops: one loop fires all jobs of a replica",
    "--identity-directory-write": "certificates stay in memory; towards etcd they come from --etcd-cert-file",
}


def _parameter(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def options(command: F) -> F:
    """Declare the flags on a command."""
    declared = [
        click.option("--etcd-initial-cluster", default="", help="Members of the embedded etcd: this replica alone. Several: run etcd apart."),
        click.option("--etcd-client-listen-address", default="localhost", show_default=True, help="Of the embedded etcd: loopback alone."),
        click.option("--etcd-client-password", default="", help="Refused: arguments are visible to all. Use --etcd-client-password-file."),
        *(click.option(one.flag, type=one.kind, default=None, help=f"Embedded etcd: {one.text}.") for one in _EMBEDDED),
        *(click.option(flag, default=None, help=f"Accepted, without effect: {reason}.") for flag, reason in IGNORED.items()),
    ]  # fmt: skip
    for declare in reversed(declared):
        command = declare(command)
    return command


def reason(flag: str) -> str:
    """Why a flag is without effect."""
    return IGNORED.get(flag, "it is for the embedded etcd, and etcd runs apart")


def take(values: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """A command's values with these flags made into arguments of the embedded etcd; those without effect are listed. Raises ConfigError."""
    embed: bool = values["etcd_embed"]
    members = [member for member in values.pop("etcd_initial_cluster").split(",") if member.strip()]
    address, password = values.pop("etcd_client_listen_address"), values.pop("etcd_client_password")
    given = {one: value for one in _EMBEDDED if (value := values.pop(_parameter(one.flag))) is not None}
    ignored += [flag for flag in IGNORED if values.pop(_parameter(flag)) is not None]
    if password:
        raise ConfigError(
            "cannot use --etcd-client-password with --etcd-embed"
            if embed
            else "--etcd-client-password would be visible to everybody on this machine: write it into a file and give --etcd-client-password-file"
        )
    if embed and len(members) > 1:
        raise ConfigError(
            f"--etcd-initial-cluster names {len(members)} members; the embedded etcd is a single one: "
            "run etcd as a cluster of its own, and give every replica its --etcd-client-endpoints"
        )
    if embed and not is_loopback(address):
        raise ConfigError(
            f"--etcd-client-listen-address is {address!r}; the embedded etcd knows no passwords, so it listens on loopback alone: "
            "run etcd apart where others need it"
        )
    if not embed:
        ignored += [one.flag for one in given]
        return values
    arguments = {one.etcd_flag: value for one, value in given.items()}
    if {"--auto-compaction-mode", "--auto-compaction-retention"} & arguments.keys():
        # Together they mean something; alone each has the other's default of the reference beside it.
        arguments = {"--auto-compaction-mode": "revision", "--auto-compaction-retention": "1000000", **arguments}
    shown = {flag: str(value).lower() if isinstance(value, bool) else value for flag, value in arguments.items()}
    return {**values, "etcd_arguments": tuple(f"{flag}={value}" for flag, value in shown.items())}
