"""One seeded run: replicas, sidecars and clients around one etcd; a phase of faults, then everything heals and must come to rest as promised."""

import asyncio
import gc
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from scheduler._pb.scheduler_storage.v1.storage_pb2 import Member
from scheduler.config import ServeSettings
from scheduler.core import timers
from scheduler.engine import commits
from scheduler.engine.partition import Phase
from scheduler.store import partition
from tests.sim.checker import NS, Checker, Violation
from tests.sim.clients import Clients, random_job
from tests.sim.faults import Faults
from tests.sim.loop import Deadlock, SimLoop, TooManySteps
from tests.sim.model import Model
from tests.sim.replicas import WALL_START_S, Host
from tests.sim.server import Server
from tests.sim.sidecars import Sidecar, keep_connected

TTL_S = 5
PARTITIONS = 8
REPLICAS = 3
FAULTS_S = 40.0
# After healing: a lease or two run out, claims move, partitions load, what was missed is caught up.
REST_MAX_S = 30.0
REST_S = 3.0
KEEPALIVE_GAP_S = 2.5


@contextmanager
def small_house() -> Iterator[None]:
    """Sizes as they are for millions of jobs would never be reached here: pages, journals, checkpoints and the timers' coarse buckets shrink."""
    with (
        mock.patch.object(commits, "_FOLD_BATCHES", 12),
        mock.patch.object(commits, "_FOLD_ENTRIES", 24),
        mock.patch.object(commits, "CHECKPOINT_PART_BYTES", 2 * commits.ENTRY_BYTES),
        mock.patch.object(partition, "PAGE_SIZE", 3),
        mock.patch.object(timers, "_LEVEL_BITS", (0, 8, 12)),
    ):
        yield


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ttl_s = float(TTL_S)
        self.loop = loop = SimLoop(max_steps=200_000)
        self.events: list[tuple[Any, ...]] = []
        self.model = Model()
        self.server = Server(loop, self.chance("etcd"), self.model)
        self.checker = Checker(now=loop.time, log=self.log, ttl_s=TTL_S, margin_s=1.0)
        self.server.heard = self.checker.revision
        self.server.lease_ended = self._lease_ended
        rng = self.chance("settings")
        ops = self.model.max_txn_ops = rng.choice([9, 16, 128])
        kept_bytes = self.chance("payloads").choice([0, 4_096])
        window, in_flight = rng.choice([4, 16, 16_384]), rng.choice([2, 64])
        self.hosts = [
            Host(
                name=f"replica-{number}",
                loop=loop,
                server=self.server,
                checker=self.checker,
                rng=self.chance(f"replica {number}"),
                settings=ServeSettings(
                    id=f"replica-{number}",
                    etcd_embed=False,
                    etcd_client_endpoints=("etcd",),
                    etcd_max_txn_ops=ops,
                    partitions=PARTITIONS,
                    lease_ttl_s=TTL_S,
                    commit_window=window,
                    payload_in_memory_bytes=kept_bytes,
                    in_flight_per_stream=in_flight,
                ),
            )
            for number in range(REPLICAS)
        ]
        self.sidecars = [
            Sidecar(app=app, loop=loop, checker=self.checker, rng=self.chance(f"sidecar {app}"), hosts=self.hosts)
            for app in ("a", "b")
        ]
        self.clients = Clients(
            loop=loop, checker=self.checker, rng=self.chance("clients"), hosts=self.hosts, apps=("a", "b"), partitions=PARTITIONS
        )  # fmt: skip
        self.faults = Faults(self, self.chance("faults"))

    def chance(self, purpose: str) -> random.Random:
        """A stream of random numbers of its own, so that one purpose's use does not shift another's."""
        return random.Random(f"{self.seed} {purpose}")

    def log(self, *what: Any) -> None:
        self.events.append((self.loop.now, *what))

    def wall_text(self, seconds: float) -> str:
        """A time from now, as clients write it."""
        at = datetime.fromtimestamp(WALL_START_S + int(self.loop.now + seconds), UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")

    def cheer(self, sidecar: Sidecar) -> None:
        """A sidecar is itself again; what it forgot comes again on a new connection."""
        sidecar.delay_s = (0.001, 0.01)
        sidecar.failing = sidecar.odd = 0.0
        for stream in sidecar.streams.values():
            if not stream.reading:
                stream.to_replica(stream.writable)
        if sidecar.forgetful:
            sidecar.forgetful = 0.0
            sidecar.close()

    def _lease_ended(self, lease_id: int, reason: str) -> None:
        self.checker.lease_ended(lease_id, reason)
        if reason != "expired":
            return
        for host in self.hosts:
            if host.running and lease_id in host.client.trusted_s and host.calm_for_s() > 2 * TTL_S:
                self.checker.fail("lost_lease", f"{host.name} loses its lease {lease_id} without any disturbance")

    # The run

    def run(self) -> Violation | None:
        """The first broken promise, or None."""
        gc.disable()
        try:
            with small_house():
                self.loop.run_until_complete(self._main())
        except Deadlock:
            self.checker.fail("deadlock", "nothing is scheduled any more")
        except TooManySteps:
            self.checker.fail("spin", f"{self.loop.steps} callbacks in {self.loop.now:.3f} s of virtual time")
        except _Broken:
            pass
        finally:
            if self.loop.errors:
                self.checker.fail("crash", self.loop.errors[0])
            self.steps = self.loop.steps
            self.virtual_s = self.loop.now
            # What is left on machines, dead ones too, runs to its end now: nobody watches any more.
            verdict, events = self.checker.violation, self.events
            self.events = []
            with small_house():
                self.loop.finish()
            self.checker.violation, self.events = verdict, events
            gc.enable()
        return self.checker.violation

    async def _main(self) -> None:
        background = [asyncio.ensure_future(keep_connected(sidecar)) for sidecar in self.sidecars]
        for host in self.hosts:
            self.loop.later(self.chance("boot").random(), host.boot)
        await self._until(1.0)
        rng = self.chance("work")
        for _ in range(rng.randrange(8, 15)):
            self.clients.schedule(overwrite=False, job=random_job(rng, forever=rng.random() < 0.4))
        chosen = self.faults.choose()
        if chosen:
            self.server.losing = self.faults.choose_lost()
            self.clients.answers_get_lost = bool(self.server.losing)
        self.log("swarm", tuple(chosen), tuple(self.server.losing))
        self.checker.finished = self._finished
        strikes = [asyncio.ensure_future(self.faults.run(name, mean_s)) for name, mean_s in chosen.items()]
        strikes.append(asyncio.ensure_future(self._churn(rng)))
        await self._until(FAULTS_S)
        for task in (*strikes, *background):
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception()
        for strike in strikes:
            strike.cancel()
        await asyncio.sleep(0)
        await self._rest()
        for task in background:
            task.cancel()

    async def _churn(self, rng: random.Random) -> None:
        clients, mean_s = self.clients, rng.choice([0.5, 2.0, 8.0])
        while True:
            await asyncio.sleep(rng.expovariate(1.0 / mean_s))
            kind, name = rng.random(), rng.choice(clients.names) if clients.names else None
            if kind < 0.3 or name is None:
                clients.schedule(overwrite=False)
            elif kind < 0.6:
                clients.schedule(overwrite=rng.random() < 0.7, name=name)
            else:
                clients.delete(name)

    def _finished(self, key: bytes) -> None:
        """Somebody writes a job again in the moment between its end and its record's deletion."""
        if self.clients.rng.random() < 0.15:
            app, name = key.decode().split("||")[2:]
            self.loop.later(self.clients.rng.uniform(0.0, 0.3), self._again, (app, name))

    def _again(self, name: tuple[str, str]) -> None:
        self.clients.schedule(overwrite=True, name=name)

    async def _until(self, at_s: float) -> None:
        """Let time pass, and look from time to time."""
        while self.loop.now < at_s:
            await asyncio.sleep(0.5)
            self._look()

    def _look(self) -> None:
        if self.loop.errors:
            self.checker.fail("crash", self.loop.errors[0])
        self.clients.look()
        for host in self.hosts:
            self._look_at(host)
        if self.checker.violation is not None:
            raise _Broken

    def _look_at(self, host: Host) -> None:
        """Keepalives go out on time, whatever became of those before."""
        tried = host.client.tried_s if host.running else {}
        if (
            not tried
            or host.stopping
            or self.loop.now - host.thawed_s < KEEPALIVE_GAP_S
            or host.machine.frozen is not None
        ):
            return
        lease = max(tried)
        if lease in self.model.leases and self.loop.now - tried[lease] > KEEPALIVE_GAP_S:
            self.checker.fail(
                "keepalive", f"{host.name} has not tried to keep its lease for {self.loop.now - tried[lease]:.2f} s"
            )

    async def _rest(self) -> None:
        """Everything heals; then it must come to rest."""
        self.log("healed")
        self.server.losing = {}
        self.checker.finished = lambda _key: None
        self.healed_s = self.loop.now
        for host in self.hosts:
            if not host.running:
                host.boot()
        for sidecar in self.sidecars:
            self.cheer(sidecar)
            sidecar.start()
        since_s = self.loop.now
        while self.loop.now < since_s + REST_S:
            await self._until(self.loop.now + 0.5)
            if problem := self._unrest():
                since_s = self.loop.now
                if since_s > self.healed_s + REST_MAX_S:
                    self.checker.fail("unrest", f"{REST_MAX_S:.0f} s after everything healed: {problem}", self._subject)
                    raise _Broken
        self.rest_s = since_s - self.healed_s

    _subject: Any = None

    def _unrest(self) -> str | None:
        """What is not as it should be; None: all is well."""
        self._subject = None
        checker, now_s = self.checker, self.loop.now
        hosts = {host.incarnation: host for host in self.hosts if host.running}
        if len(hosts) < len(self.hosts) or any(host.stopping for host in self.hosts):
            self.boot_all()
            return "a replica is not running"
        if len(checker.owners) < PARTITIONS:
            return f"only partitions {sorted(checker.owners)} have an owner"
        for number, owner in checker.owners.items():
            host = hosts.get(owner.incarnation)
            if host is None:
                return f"partition {number} belongs to nobody who lives"
            owned = host.replica.engine.partitions.get(number)
            if owned is None or owned.epoch != owner.epoch or owned.phase is not Phase.FIRING:
                return f"{host.name} does not fire partition {number}: {owned}"
            for version in checker.alive.values():
                if version.partition == number and (late := self._late(version, host)):
                    self._subject = version
                    return late
        for host in hosts.values():
            if sorted(host.replica.cluster.owned()) != sorted(host.replica.engine.partitions):
                return f"{host.name}'s cluster and engine disagree on what it owns"
        if len(self.model.leases) != len(hosts):
            return f"{len(self.model.leases)} leases for {len(hosts)} replicas"
        if any(sidecar.fading for sidecar in self.sidecars):
            return "a replica has not noticed that a stream is dead"
        return self._zombie(now_s)

    def boot_all(self) -> None:
        for host in self.hosts:
            if not host.running:
                host.boot()

    def _late(self, version: Any, host: Host) -> str | None:
        done, count, _ = version.progress
        due = version.planned(count)
        if due is None:
            since_s = version.done_s if done else version.created_s if count == 0 else 0.0
            return f"finished and still there: {version!r}" if self.loop.now - since_s > 3.0 else None
        late_s = (host.clock.wall_ns() - due) / NS
        return f"occurrence {count} is {late_s:.1f} s late: {version!r}" if late_s > 1.5 else None

    def _zombie(self, now_s: float) -> str | None:
        """Keys that are left for nothing."""
        # A checkpoint that did not get through stays, and its journal with it, until one does.
        folds = 8 if self.clients.answers_get_lost else 1
        for number, batches in self.checker.ledger.items():
            journal = [key for key in batches if b"/journal/" in key]
            if len(journal) > 30 * folds:
                return f"{len(journal)} journal batches in partition {number}"
            checkpoints = {key.rsplit(b"/", 1)[0] for key in batches if b"/checkpoint/" in key}
            if len(checkpoints) > 3 * folds:
                return f"{len(checkpoints)} checkpoints in partition {number}"
        members = {key: Member.FromString(kv.value) for key, kv in self.model.kvs.items() if b"/members/" in key}
        if len(members) != len(self.hosts) or any(one.state != Member.STATE_SERVING for one in members.values()):
            return f"members {members}"
        return None

    def trace_hash(self) -> str:
        """Equal for equal runs."""
        digest = hashlib.blake2b(digest_size=8)
        for event in self.events:
            digest.update(repr(event).encode())
        return digest.hexdigest()


class _Broken(Exception):
    """A promise is broken: the run is over."""


def run_seed(seed: int, *, prepare: Callable[[World], None] | None = None) -> World:
    """Run one seed; `world.checker.violation` tells how it went."""
    world = World(seed)
    if prepare is not None:
        prepare(world)
    world.run()
    return world
