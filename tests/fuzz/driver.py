"""One process of the fuzzer: calls and streams to one replica until its time is up, then a summary as JSON on stdout.

python -m tests.fuzz.driver ADDRESS SEED SECONDS
"""

import json
import sys
import threading
import time
from collections import Counter, deque
from queue import Queue
from random import Random

import grpc

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.fuzz import inputs
from tests.support.admin import SERVICE as ADMIN_SERVICE
from tests.support.client import SERVICE, UNLIMITED, actor_metadata, job_metadata

_CALLERS = 3
_STREAMS = 3
_TIMEOUT_S = 10.0
# A call that takes longer has occupied the replica, or met somebody who did.
_SLOW_S = 3.0
_CLEAN_EVERY = 150
# None of these is an answer to an input, whatever it is.
_FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}


class Driver:
    """All threads of one process."""

    def __init__(self, address: str, seed: int, seconds: float) -> None:
        self._channel = grpc.insecure_channel(address, options=UNLIMITED)
        self._seed = seed
        self._end = time.monotonic() + seconds
        self.calls: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.findings: list[str] = []

    @property
    def _running(self) -> bool:
        return time.monotonic() < self._end

    def run(self) -> None:
        work = [(self._call, number) for number in range(_CALLERS)] + [
            (self._stream, number) for number in range(100, 100 + _STREAMS)
        ]
        threads = [threading.Thread(target=target, args=(Random(self._seed * 1_000 + number),)) for target, number in work]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._channel.close()

    def _note(self, method: str, request: bytes, problem: str) -> None:
        if len(self.findings) < 20:
            self.findings.append(f"{method} {problem}; request {request[:2_000].hex()}")

    def _call(self, rng: Random) -> None:
        number = 0
        while self._running:
            method, request = inputs.unary(rng)
            self._unary(method, request)
            number += 1
            if number % _CLEAN_EVERY == 0:
                self._clean()

    def _unary(self, method: str, request: bytes) -> None:
        started = time.monotonic()
        self.calls[method] += 1
        try:
            service = ADMIN_SERVICE if method in inputs.OPERATORS else SERVICE
            self._channel.unary_unary(f"{service}/{method}")(request, timeout=_TIMEOUT_S)
            self.codes["OK"] += 1
        except grpc.RpcError as error:
            self.codes[error.code().name] += 1
            # Trailers that the client does not take hide what we have said.
            if error.code() in _FAULTS or "Stream removed" in (error.details() or ""):
                self._note(method, request, f"{error.code().name} {error.details()}")
        if time.monotonic() - started > _SLOW_S:
            self._note(method, request, f"took {time.monotonic() - started:.1f} s")

    def _clean(self) -> None:
        """So that what is stored and what fires stays within bounds."""
        for namespace in inputs.NAMESPACES:
            for app in inputs.APPS:
                self._unary("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=job_metadata(app, namespace)).SerializeToString())  # fmt: skip
            for kind in inputs.ACTOR_TYPES:
                metadata = actor_metadata(kind, "", namespace=namespace)
                self._unary("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=metadata).SerializeToString())

    def _stream(self, rng: Random) -> None:
        while self._running:
            if rng.random() < 0.15:
                self._watch_hosts(rng)
            else:
                self._watch_jobs(rng)

    def _watch_hosts(self, rng: Random) -> None:
        self.calls["WatchHosts"] += 1
        call = self._channel.unary_stream(f"{SERVICE}/WatchHosts")(
            inputs.damaged(rng, rng.randbytes(5)), timeout=_TIMEOUT_S
        )
        try:
            next(call)
        except grpc.RpcError as error:
            self._note("WatchHosts", b"", f"{error.code().name} {error.details()}")
        call.cancel()

    def _watch_jobs(self, rng: Random) -> None:
        """One stream's life: a first message or garbage, then answers, true and false, for a moment; then some kind of end."""
        self.calls["WatchJobs"] += 1
        outgoing: Queue[bytes | None] = Queue()
        sent: deque[bytes] = deque(maxlen=20)
        last_id = 0

        def send(message: bytes) -> None:
            sent.append(message)
            outgoing.put(message)

        call = self._channel.stream_stream(f"{SERVICE}/WatchJobs")(
            iter(outgoing.get, None), timeout=rng.uniform(0.2, 3)
        )
        if rng.random() < 0.95:
            send(inputs.damaged(rng, inputs.initial(rng).SerializeToString()))
        for _ in range(rng.choice((0, 1, 5))):
            send(inputs.damaged(rng, inputs.result(rng, range(0)).SerializeToString()))
        garbage = rng.random() < 0.2
        try:
            for message in call:
                last_id = pb.WatchJobsResponse.FromString(message).id
                if rng.random() < 0.9:
                    answer = inputs.result(rng, range(max(1, last_id - 5), last_id + 1)).SerializeToString()
                    send(inputs.damaged(rng, answer) if garbage else answer)
                if rng.random() < 0.01:
                    outgoing.put(None)  # a half-close
            self.codes["OK"] += 1
        except grpc.RpcError as error:
            self.codes[error.code().name] += 1
            if error.code() in _FAULTS - {grpc.StatusCode.DEADLINE_EXCEEDED}:
                self._note("WatchJobs", b"|".join(sent), f"{error.code().name} {error.details()}")
        outgoing.put(None)


def main() -> None:
    address, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    driver = Driver(address, seed, seconds)
    driver.run()
    summary = {"calls": driver.calls, "codes": driver.codes, "findings": driver.findings}
    json.dump(summary, sys.stdout)


if __name__ == "__main__":
    main()
