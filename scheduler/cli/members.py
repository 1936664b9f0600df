"""A whole cluster from the command line: any replica lists the members, and each member is asked for itself (scheduler.admin.v1)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Self, TypeVar

from google.protobuf.message import Message

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler.aio.clock import SystemClock
from scheduler.cli.endpoint import Endpoint
from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError, Status

_A = TypeVar("_A", bound=Message)
_SERVICE = "/scheduler.admin.v1.Admin"
TIMEOUT_S = 10.0
# What one member may take when all are asked: one that hangs must not hold the others' answers up for long.
MEMBER_TIMEOUT_S = 4.0


class Seen(NamedTuple):
    """One member, as others list it and as it says itself; `problem`: why it does not.

    Its wall clock is `ahead_s` before ours, give or take `within_s`.
    """

    member: pb.Member
    status: pb.GetStatusResponse | None
    problem: str = ""
    ahead_s: float = 0.0
    within_s: float = 0.0


class ClusterClient:
    """Calls to all members; connections are kept until `close`."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connects with the first call."""
        self.endpoint = endpoint
        self._clock = SystemClock()
        self._channels: dict[str, Channel] = {}
        # The address at which a member has answered, which may be another than it tells sidecars (a port that is forwarded).
        self._reached: dict[str, str] = {}
        # Members that were listed last: any of them can list the rest, should the first be gone.
        self._known: list[str] = [endpoint.address]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def call(
        self, address: str, method: str, request: Message, answer: type[_A], *, timeout_s: float = TIMEOUT_S
    ) -> _A:
        """One call to one member. Raises RpcError, OSError or ValueError."""
        channel = self._channels.get(address) or self._channels.setdefault(address, self.endpoint.connect(address))
        data = await channel.unary(f"{_SERVICE}/{method}", request.SerializeToString(), timeout_s=timeout_s)
        return answer.FromString(data)

    async def members(self) -> list[pb.Member]:
        """The members, as the given replica sees them, or the next that answers. Raises RpcError of the first."""
        first: RpcError | None = None
        for address in self._known:
            try:
                listed = await self.call(address, "ListMembers", pb.ListMembersRequest(), pb.ListMembersResponse)
            except RpcError as error:
                first = first or error
                if error.status not in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}:
                    break
                continue
            self._reached[listed.replica] = address
            self._known = list(dict.fromkeys([self.endpoint.address, *(one.address for one in listed.members)]))
            # One that has not seen etcd yet lists nobody, and is there all the same.
            return list(listed.members) or [pb.Member(replica=listed.replica, address=address, state="joining")]
        assert first is not None
        raise first

    def address(self, member: pb.Member) -> str:
        """Where to call a member."""
        return self._reached.get(member.replica, member.address)

    async def survey(self, *, with_etcd: bool = False) -> list[Seen]:
        """Every member's status. Raises RpcError where not even the list is to be had."""

        async def ask(member: pb.Member) -> Seen:
            request = pb.GetStatusRequest(with_etcd=with_etcd)
            began_ns = self._clock.wall_ns()
            status, problem = await _or_problem(
                self.call(self.address(member), "GetStatus", request, pb.GetStatusResponse, timeout_s=MEMBER_TIMEOUT_S)
            )
            if status is None:
                return Seen(member, None, problem)
            ended_ns = self._clock.wall_ns()
            ahead_s = (status.process.wall_unix_ns - (began_ns + ended_ns) / 2) * 1e-9
            return Seen(member, status, ahead_s=ahead_s, within_s=(ended_ns - began_ns) * 0.5e-9)

        return await _all(ask, await self.members())

    async def partitions(self) -> tuple[list[pb.Partition], dict[str, str]]:
        """Every partition, with what its owner says of it; and why a member said nothing, by its name. Raises RpcError."""

        async def ask(member: pb.Member) -> tuple[str, pb.ListPartitionsResponse | None, str]:
            request = pb.ListPartitionsRequest()
            return member.replica, *await _or_problem(
                self.call(
                    self.address(member),
                    "ListPartitions",
                    request,
                    pb.ListPartitionsResponse,
                    timeout_s=MEMBER_TIMEOUT_S,
                )
            )

        members = await self.members()
        answers = await _all(ask, members)
        merged: dict[int, pb.Partition] = {}
        for _, answer, _ in answers:
            for one in answer.partitions if answer else ():
                known = merged.get(one.number)
                # An owner knows best; else the latest claim.
                if known is None or (one.HasField("owned"), one.epoch) > (known.HasField("owned"), known.epoch):
                    merged[one.number] = one
        return [one for _, one in sorted(merged.items())], {name: text for name, _, text in answers if text}


async def _or_problem(answer: Awaitable[_A]) -> tuple[_A | None, str]:
    try:
        return await answer, ""
    except RpcError as error:
        return None, f"{error.message} ({error.status.name})"
    except (OSError, ValueError) as error:
        return None, str(error)


_I = TypeVar("_I")
_O = TypeVar("_O")


async def _all(ask: Callable[[_I], Awaitable[_O]], whom: Iterable[_I]) -> list[_O]:
    """Ask everybody at once."""

    async def one(item: _I) -> _O:
        return await ask(item)

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(item)) for item in whom]
    return [task.result() for task in asked]


def quantile(bounds_s: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Seconds below which `share` of what a histogram counted lies, taken as evenly spread in each bucket; None without any.

    Beyond the last bound it is that bound: nobody knows more.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0.0
    for low, high, count in zip((0.0, *bounds_s), bounds_s, counts, strict=False):
        if count and below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below += count
    return bounds_s[-1]


def lateness_ms(totals: Iterable[pb.Totals], share: float) -> float | None:
    """A quantile of the lateness of several members together, in milliseconds."""
    histograms = [one.lateness for one in totals if one.lateness.counts]
    if not histograms:
        return None
    counts = [sum(column) for column in zip(*(one.counts for one in histograms), strict=True)]
    seconds = quantile(histograms[0].bounds_s, counts, share)
    return None if seconds is None else seconds * 1000
