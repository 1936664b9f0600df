"""API clients of a simulation: they schedule, overwrite and delete through some replica, and note what they were told, or that they were told nothing."""

import random
from collections.abc import Iterable
from typing import Any

from google.protobuf.any_pb2 import Any as Payload
from google.protobuf.duration_pb2 import Duration

from scheduler._pb.dapr.proto.common.v1.common_pb2 import JobFailurePolicy, JobFailurePolicyConstant
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.names import app_target, storage_key
from scheduler.rpc.jobs import record_of
from scheduler.store.errors import JobExists, StoreError
from scheduler.store.jobs import _content
from scheduler.store.keys import Keys, partition_of
from tests.sim.checker import Checker, Version
from tests.sim.loop import SimLoop
from tests.sim.replicas import Host

# No call is answered later than this (promise G11), whatever becomes of those before it.
ANSWER_MAX_S = 6.0


class Call:
    """One API call."""

    def __init__(self, kind: str, key: bytes, host: Host, now_s: float) -> None:
        self.kind = kind
        self.key = key
        self.host = host
        self.process = host.process
        self.invoked_s = now_s
        self.answered_s: float | None = None
        self.result = "open"
        self.record: Any = None

    def may_have_deleted(self, version: Version) -> bool:
        """Whether a version that ends now may have been ended by this call."""
        return self.result != "ok" or self.answered_s is None or self.answered_s >= version.created_s


def random_job(rng: random.Random, *, forever: bool) -> dict[str, Any]:
    """The time fields and policy of a job; small, so that most finish or come round many times in a run."""
    job: dict[str, Any] = {}
    kind = rng.random()
    if kind < 0.35 and not forever:
        job["due_time"] = f"{rng.randrange(0, 15)}s"
    elif kind < 0.85:
        job["schedule"] = f"@every {rng.choice([1, 1, 2, 3, 5])}s"
    else:
        job["schedule"] = f"*/{rng.choice([1, 2, 5])} * * * * *"
    if "schedule" in job and not forever:
        end = rng.random()
        if end < 0.5:
            job["repeats"] = rng.randrange(1, 9)
        elif end < 0.7:
            job["ttl"] = f"{rng.randrange(1, 20)}s"
        if rng.random() < 0.3:
            job["due_time"] = f"{rng.randrange(0, 4)}s"
            if "ttl" in job:
                job["ttl"] = "20s"
    policy = rng.random()
    if policy < 0.2:
        job["failure_policy"] = JobFailurePolicy(drop={})
    elif policy < 0.5:
        constant = JobFailurePolicyConstant(interval=Duration(nanos=rng.choice([0, 50, 300]) * 1_000_000))
        if rng.random() < 0.5:
            constant.max_retries = rng.randrange(0, 4)
        job["failure_policy"] = JobFailurePolicy(constant=constant)
    return job


class Clients:
    """All clients together."""

    def __init__(
        self,
        *,
        loop: SimLoop,
        checker: Checker,
        rng: random.Random,
        hosts: list[Host],
        apps: Iterable[str],
        partitions: int,
    ) -> None:
        self.loop = loop
        self.checker = checker
        self.rng = rng
        self.hosts = hosts
        self.apps = list(apps)
        self.partitions = partitions
        self.names: list[tuple[str, str]] = []
        self.open: dict[Call, None] = {}
        self.unknown: dict[bytes, list[bytes]] = {}
        self.refused: dict[Call, None] = {}
        self.calls = 0
        self.answers_get_lost = False
        self._keys = Keys()

    def _host(self) -> Host | None:
        running = [host for host in self.hosts if host.running]
        return self.rng.choice(running) if running else None

    def schedule(
        self, *, overwrite: bool, name: tuple[str, str] | None = None, job: dict[str, Any] | None = None
    ) -> None:
        host = self._host()
        if host is None:
            return
        rng = self.rng
        if name is None:
            name = (rng.choice(self.apps), f"job-{len(self.names)}")
            self.names.append(name)
        target = app_target("default", name[0])
        metadata = pb.JobMetadata(app_id=name[0], namespace="default", target=pb.JobTargetMetadata(job=pb.TargetJob()))
        fields = random_job(rng, forever=False) if job is None else job
        data = Payload(value=str(self.calls).encode())  # no two writes have the same
        request = pb.ScheduleJobRequest(
            name=name[1], job=pb.Job(**fields, data=data), metadata=metadata, overwrite=overwrite
        )
        key = storage_key(target, name[1])
        call = self._open("schedule", key, host)

        def arrive() -> None:
            call.record = record_of(request, host.clock.wall_ns())
            process.replica_store.put(
                key, call.record, overwrite=overwrite, done=lambda error: self._answer(call, error)
            )

        process = _Door(host)
        self.loop.later(rng.uniform(0.0003, 0.002), process.machine.call, arrive)

    def delete(self, name: tuple[str, str]) -> None:
        host = self._host()
        if host is None:
            return
        key = storage_key(app_target("default", name[0]), name[1])
        call = self._open("delete", key, host)
        self.checker.deletes.setdefault(call.key, []).append(call)
        process = _Door(host)

        def arrive() -> None:
            process.replica_store.delete(key, done=lambda error: self._answer(call, error))

        self.loop.later(self.rng.uniform(0.0003, 0.002), process.machine.call, arrive)

    def _open(self, kind: str, key: str, host: Host) -> Call:
        etcd_key = self._keys.job(partition_of(key, self.partitions), key)
        call = Call(kind, etcd_key, host, self.loop.now)
        self.open[call] = None
        self.calls += 1
        self.checker.log("invoke", kind, etcd_key, host.name)
        return call

    def _answer(self, call: Call, error: StoreError | None) -> None:
        self.loop.later(self.rng.uniform(0.0003, 0.002), self._hear, call, error)

    def _hear(self, call: Call, error: StoreError | None) -> None:
        self.open.pop(call, None)
        call.answered_s = self.loop.now
        call.result = "ok" if error is None else "exists" if isinstance(error, JobExists) else "info"
        self.checker.log("answer", call.kind, call.key, call.result, call.record.generation if call.record else 0)
        content = _content(call.record.SerializeToString()) if call.record is not None else b""
        if call.result == "info" and call.record is not None:
            self.unknown.setdefault(call.key, []).append(content)
        if call.result != "ok":
            return
        checker = self.checker
        if call.kind == "schedule":
            if call.record.generation not in checker.versions and content not in self.unknown.get(call.key, ()):
                checker.fail(
                    "lost",
                    f"{call.key.decode()} was accepted, and etcd has never had generation {call.record.generation:x}",
                )
        else:
            left = checker.alive.get(call.key)
            if left is not None and left.created_s < call.invoked_s:
                checker.fail("lost", f"its deletion was accepted, and it is still there: {left!r}", left)

    def look(self) -> None:
        """Calls that nobody answers: a running replica must answer in time, others never do."""
        for call in list(self.open):
            waited_s = self.loop.now - call.invoked_s
            gone = call.host.process is not call.process or not call.host.running
            if gone and waited_s > 6.0:
                del self.open[call]
                call.result = "info"
            elif call.host.machine.frozen is None and min(waited_s, self.loop.now - call.host.thawed_s) > ANSWER_MAX_S:
                self.checker.fail("hang", f"{call.kind} of {call.key.decode()} has no answer after {waited_s:.1f} s")


class _Door:
    """The process that a call goes to: if another takes its place meanwhile, the call dies with it."""

    __slots__ = ("machine", "replica_store")

    def __init__(self, host: Host) -> None:
        self.machine = host.machine
        self.replica_store = host.replica.store
