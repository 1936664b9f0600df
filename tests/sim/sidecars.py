"""Sidecars of a simulation: streams to every replica that runs, answers by mood, and connections that break."""

import asyncio
import random
from typing import Any

from scheduler._pb.dapr.proto.scheduler.v1.scheduler_pb2 import WatchJobsResponse
from scheduler.core.names import app_target, route_key
from tests.sim.checker import Checker
from tests.sim.loop import SimLoop
from tests.sim.replicas import Host

_CONGESTED_BYTES = 2 << 20
DEAD_LINK_S = 5.0  # a stream whose peer is silent is given up by its keepalive


class Stream:
    """One WatchJobs stream; the hub's `Outlet`."""

    def __init__(self, sidecar: "Sidecar", host: Host) -> None:
        self.sidecar = sidecar
        self.host = host
        self.process = host.process
        self.machine = host.machine
        self.hub = host.replica.hub
        self.hub_stream: Any = None
        self.ended = False  # for the replica
        self.ended_s = float("inf")  # while its process lived
        self.closed = False  # for the sidecar
        self.reading = True
        self.last_s = [0.0, 0.0]

    @property
    def send_buffered(self) -> int:
        return 0 if self.reading else _CONGESTED_BYTES

    def send_framed(self, chunk: bytes) -> None:
        if not self.closed:
            self._after(0, self.sidecar.receive, self, chunk)

    def _after(self, direction: int, callback: Any, *args: Any) -> None:
        """In order, as TCP keeps it."""
        sidecar = self.sidecar
        at = max(self.last_s[direction], sidecar.loop.now + sidecar.rng.uniform(0.0003, 0.002))
        self.last_s[direction] = at
        sidecar.loop.at(at, callback, *args)

    def to_replica(self, callback: Any, *args: Any) -> None:
        self._after(1, self.machine.call, callback, *args)

    def attach(self) -> None:
        self.hub_stream = self.hub.attach(self, [self.sidecar.route])

    def detach(self) -> None:
        if self.hub_stream is not None and not self.ended:
            self.ended, self.ended_s = True, self.sidecar.loop.now
            self.hub.detach(self.hub_stream)

    def acknowledge(self, delivery_id: int, succeeded: bool) -> None:
        if not self.ended:
            self.hub.acknowledge(self.hub_stream, delivery_id, succeeded)

    def writable(self) -> None:
        self.reading = True
        if not self.ended and self.hub_stream is not None:
            self.hub.writable(self.hub_stream)


class Sidecar:
    """One app's sidecar."""

    def __init__(self, *, app: str, loop: SimLoop, checker: Checker, rng: random.Random, hosts: list[Host]) -> None:
        self.app = app
        self.route = route_key(app_target("default", app))
        self.loop = loop
        self.checker = checker
        self.rng = rng
        self.hosts = hosts
        self.up = True
        self.streams: dict[Any, Stream] = {}  # by the replica's process
        self.fading: dict[Stream, None] = {}  # broken, and their replicas may not have noticed
        self.received = 0
        # Moods: how long an answer takes, and how often it fails, is forgotten, is garbage.
        self.delay_s = (0.001, 0.01)
        self.failing = self.forgetful = self.odd = 0.0

    def look(self) -> None:
        """Connect to whoever runs and has no stream; forget those who do not."""
        for stream in list(self.fading):
            if stream.ended or not stream.machine.alive:
                del self.fading[stream]
        for process, stream in list(self.streams.items()):
            if not stream.machine.alive:
                stream.closed = stream.ended = True
                del self.streams[process]
        if self.up:
            for host in self.hosts:
                if host.running and host.process not in self.streams:
                    stream = self.streams[host.process] = Stream(self, host)
                    stream.to_replica(stream.attach)

    def close(self, *, silently: bool = False) -> None:
        """Every stream breaks: at once for the replicas, or as late as they notice."""
        for stream in self.streams.values():
            stream.closed = True
            if silently:
                self.fading[stream] = None
                self.loop.later(self.rng.uniform(0.5, 1.0) * DEAD_LINK_S, stream.machine.call, stream.detach)
            else:
                stream.to_replica(stream.detach)
        self.streams.clear()

    def crash(self, *, silently: bool) -> None:
        self.up = False
        self.close(silently=silently)

    def start(self) -> None:
        self.up = True
        self.look()

    def receive(self, stream: Stream, chunk: bytes) -> None:
        if stream.closed:
            return
        at = 0
        while at < len(chunk):
            size = int.from_bytes(chunk[at + 1 : at + 5], "big")
            self._trigger(stream, WatchJobsResponse.FromString(chunk[at + 5 : at + 5 + size]))
            at += 5 + size

    def _trigger(self, stream: Stream, trigger: WatchJobsResponse) -> None:
        self.received += 1
        occurrence = trigger.occurrence
        self.checker.log(
            "received", self.app, trigger.name, occurrence.generation, occurrence.index, occurrence.attempt
        )
        self.checker.received(trigger)
        rng = self.rng
        if rng.random() < self.forgetful:
            return
        succeeded = rng.random() >= self.failing
        self.loop.later(rng.uniform(*self.delay_s), self._answer, stream, trigger, succeeded)
        if rng.random() < self.odd:
            for wrong in (trigger.id + 1_000, 0):
                stream.to_replica(stream.acknowledge, wrong, succeeded)

    def _answer(self, stream: Stream, trigger: WatchJobsResponse, succeeded: bool) -> None:
        if stream.closed:
            return
        occurrence = trigger.occurrence
        self.checker.answered(occurrence.generation, occurrence.index, occurrence.attempt, succeeded)
        stream.to_replica(stream.acknowledge, trigger.id, succeeded)
        if self.rng.random() < self.odd:
            stream.to_replica(stream.acknowledge, trigger.id, not succeeded)  # twice, and not of one mind


async def keep_connected(sidecar: Sidecar) -> None:
    """As a sidecar follows the list of hosts."""
    while True:
        sidecar.look()
        await asyncio.sleep(0.1)
