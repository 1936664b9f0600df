"""What clients do during a fault run: some 150 jobs of every kind, and callers that create, delete, overwrite, read and list all along.

Every call is written down at its invocation and at its answer; every version of a job carries a token of its own in its data.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue

from scheduler._pb.dapr.proto.common.v1.common_pb2 import JobFailurePolicy
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.checker.history import Record
from tests.faults.etcdwatch import boottime_ns
from tests.support.client import Client, job_metadata

DEADLINE_S = 5.0
APPS = (("blue", "app-0"), ("green", "app-0"))
# Calls a second, over all callers.
CHURN_PER_S = 8.0
_NAMES = 30
# Answers by which nothing happened for sure; the rest of the failures may have happened.
_SURE = {"ALREADY_EXISTS", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}


def initial_jobs(seconds: int) -> list[tuple[str, Record]]:
    """Name and spec of the jobs that stand from the beginning; `seconds` is how long the run may take."""
    jobs: list[tuple[str, Record]] = []
    for count, name, spec in (
        (24, "every-1s", {"schedule": "@every 1s"}),
        (10, "every-2s", {"schedule": "@every 2s"}),
        (10, "every-5s", {"schedule": "@every 5s"}),
        (6, "cron", {"schedule": "*/2 * * * * *"}),
        (2, "cron-zoned", {"schedule": "TZ=Asia/Kathmandu 0,3,7,15,31,48 * * * * *"}),
        (4, "flaky", {"schedule": "@every 2s", "max_retries": 3, "interval": "1s"}),
        (6, "twenty-times", {"schedule": "@every 1s", "repeats": 20}),
        (4, "for-a-while", {"schedule": "@every 2s", "ttl": f"{max(8, seconds // 2)}s"}),
    ):
        jobs += [(f"{name}-{number}", dict(spec)) for number in range(count)]
    jobs += [(f"once-{at}", {"due_time": f"{at}s"}) for at in range(3, max(20, seconds), 2)]
    return jobs


def job_of(spec: Record, version: str) -> pb.Job:
    """The request's job."""
    fields = {key: spec[key] for key in ("schedule", "due_time", "ttl", "repeats") if key in spec}
    job = pb.Job(data=AnyMessage(), **fields)
    job.data.Pack(StringValue(value=version))
    if "max_retries" in spec:
        policy = JobFailurePolicy()
        policy.constant.max_retries = spec["max_retries"]
        policy.constant.interval.seconds = int(spec["interval"][:-1])
        job.failure_policy.CopyFrom(policy)
    return job


class Clients:
    """Callers of the API; `records` is their part of the history."""

    def __init__(self, addresses: Callable[[], list[str]], seed: int) -> None:
        """`addresses` tells where calls may go at the moment; each goes to one of them by chance."""
        self.records: list[Record] = []
        self._addresses = addresses
        self._rng = random.Random(seed)
        self._clients: dict[str, Client] = {}
        self._lock = threading.Lock()
        self._calls = self._versions = 0
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def note(self, **record: Any) -> None:
        with self._lock:
            self.records.append({"t": boottime_ns(), "wall": time.time_ns(), **record})

    def _begin(self, op: str, app: tuple[str, str], name: str, **more: Any) -> int:
        with self._lock:
            self._calls += 1
            number = self._calls
        self.note(
            type="invoke",
            id=number,
            src="caller",
            op=op,
            ns=app[0],
            app=app[1],
            name=name,
            deadline_s=DEADLINE_S,
            **more,
        )
        return number

    def call(self, number: int, method: str, request: Any, answer: Callable[[Any], Record] = lambda _: {}) -> str:
        """One call to some replica; its code."""
        with self._lock:
            address = self._rng.choice(self._addresses())
            client = self._clients.setdefault(address, Client(address))
        try:
            found = client.call(method, request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            code = error.code().name
            if code == "NOT_FOUND" and method == "GetJob":
                self.note(type="ok", id=number, src="caller", code=code, ver=None)
            else:
                self.note(type="fail" if code in _SURE else "info", id=number, src="caller", code=code)
            return code
        self.note(type="ok", id=number, src="caller", code="OK", **answer(found))
        return "OK"

    def schedule(
        self, app: tuple[str, str], name: str, spec: Record, *, overwrite: bool = False, padding: int = 0
    ) -> str:
        with self._lock:
            self._versions += 1
            version = f"v{self._versions}"
        number = self._begin("schedule", app, name, ver=version, spec=spec, overwrite=overwrite)
        job = job_of(spec, version)
        if padding:
            job.data.Pack(StringValue(value=version + " " * padding))
        metadata = job_metadata(app[1], app[0])
        return self.call(
            number, "ScheduleJob", pb.ScheduleJobRequest(name=name, job=job, metadata=metadata, overwrite=overwrite)
        )

    def delete(self, app: tuple[str, str], name: str) -> str:
        number = self._begin("delete", app, name)
        return self.call(number, "DeleteJob", pb.DeleteJobRequest(name=name, metadata=job_metadata(app[1], app[0])))

    def get(self, app: tuple[str, str], name: str) -> str:
        number = self._begin("get", app, name)
        request = pb.GetJobRequest(name=name, metadata=job_metadata(app[1], app[0]))
        return self.call(number, "GetJob", request, lambda found: {"ver": _version(found.job)})

    def list(self, app: tuple[str, str]) -> str:
        number = self._begin("list", app, "")
        request = pb.ListJobsRequest(metadata=job_metadata(app[1], app[0]))
        return self.call(
            number, "ListJobs", request, lambda found: {"found": {one.name: _version(one.job) for one in found.jobs}}
        )

    def begin(self, seconds: int) -> None:
        """Create the standing jobs; each must be accepted."""
        for app in APPS:
            for name, spec in initial_jobs(seconds):
                code = self.schedule(app, name, spec)
                assert code == "OK", f"{name}: {code}"

    def churn(self) -> None:
        """Go on calling until `stop`."""
        self._stopped.clear()
        for caller in range(2):
            thread = threading.Thread(
                target=self._caller, args=(APPS[caller], random.Random(self._rng.random())), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _caller(self, app: tuple[str, str], rng: random.Random) -> None:
        while not self._stopped.wait(rng.expovariate(CHURN_PER_S / 2)):
            name = f"churn-{rng.randrange(_NAMES)}"
            spec = rng.choice(
                (
                    {"due_time": f"{rng.randrange(1, 9)}s"},
                    {"schedule": "@every 1s"},
                    {"schedule": "@every 1s", "repeats": rng.randrange(1, 5)},
                    {"schedule": "@every 1s", "ttl": f"{rng.randrange(2, 6)}s"},
                )
            )
            step = rng.random()
            if step < 0.3:
                self.schedule(app, name, spec)
            elif step < 0.6:
                self.schedule(app, name, spec, overwrite=True)
            elif step < 0.8:
                self.delete(app, name)
            elif step < 0.97:
                self.get(app, name)
            else:
                self.list(app)

    def stop(self) -> None:
        """Returns once every call has been answered."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=DEADLINE_S + 5)
        self._threads.clear()

    def close(self) -> None:
        self.stop()
        for client in self._clients.values():
            client.close()


def _version(job: pb.Job) -> str:
    version = StringValue()
    job.data.Unpack(version)
    return version.value.rstrip()
