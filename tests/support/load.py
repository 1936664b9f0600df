"""Load on one sidecar: a scheduler's stub that sends triggers at a rate or all at once, an app that answers after a while, and what the sidecar costs.

`scripts/measure-sidecar` prints it; tests/sidecar/test_load.py holds it to bounds. The stub and the app stand on plain asyncio, so that what is
measured is the sidecar and not they.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.client.jobs import pack
from scheduler.http2.call import Call, Streaming
from scheduler.http2.grpc import frame_message
from scheduler.http2.server import Server
from tests.support.processes import ROOT, free_port

_SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
_TICKS = os.sysconf("SC_CLK_TCK")
# One job of the how-to, as our scheduler sends it.
_TRIGGER = pb.WatchJobsResponse(name="prod-db-backup", data=pack({"db": "my-prod-db", "retention_days": 7}))
_TRIGGER.metadata.target.job.SetInParent()
_TRIGGER.metadata.app_id, _TRIGGER.metadata.namespace = "measured", "default"
_TRIGGER.occurrence.replica, _TRIGGER.occurrence.scheduled_seconds = "replica-0", 1_790_000_000
_TRIGGER.occurrence.generation, _TRIGGER.occurrence.epoch = 1 << 60, 7
_BYTES = _TRIGGER.SerializeToString()

# The app: reads whole requests, answers each a moment later; with a number of bytes as argument it says nothing before it has read them all.
_APP = """
import asyncio, sys
delay = float(sys.argv[2])
class App(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data, self.loop = transport, b"", asyncio.get_running_loop()
    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.data[:end].lower()
            size = int(head.split(b"content-length:")[1].split(b"\\r\\n")[0])
            if len(self.data) < end + 4 + size:
                return
            self.data = self.data[end + 4 + size:]
            self.loop.call_later(delay, self.transport.write, b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
async def main():
    server = await asyncio.get_running_loop().create_server(App, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
asyncio.run(main())
"""


@dataclass(frozen=True)
class Cost:
    """What a run cost the sidecar."""

    triggers: int
    seconds: float
    cpu_seconds: float
    rss_before: int
    rss_peak: int

    def __str__(self) -> str:
        grown = (self.rss_peak - self.rss_before) / self.triggers / 1024
        return (
            f"{self.triggers} triggers in {self.seconds:.2f} s ({self.triggers / self.seconds:.0f} /s): "
            f"{self.cpu_seconds / self.triggers * 1e6:.0f} us CPU each, {self.cpu_seconds / self.seconds:.2f} cores; "
            f"RSS {self.rss_before >> 20} MiB before, {self.rss_peak >> 20} MiB at most ({grown:.1f} KiB a trigger)"
        )


class _Stub:
    """The scheduler: it lists itself, and sends triggers when it is told to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.streams: list[Call] = []
        self.answered = self.failed = 0
        self._sent = 0

    def methods(self) -> dict[str, Streaming]:
        return {
            f"{_SERVICE}/WatchHosts": Streaming(self._hosts),
            f"{_SERVICE}/WatchJobs": Streaming(lambda call: _Results(self, call)),
        }

    def _hosts(self, call: Call) -> "_Nobody":
        call.send(pb.WatchHostsResponse(hosts=[pb.Host(address=self.address)]).SerializeToString())
        return _Nobody()

    def send(self, count: int) -> None:
        """So many triggers, spread over the streams."""
        parts: list[list[bytes]] = [[] for _ in self.streams]
        for _ in range(count):
            self._sent += 1
            identified = pb.WatchJobsResponse(id=self._sent).SerializeToString()
            parts[self._sent % len(parts)].append(frame_message(_BYTES + identified))
        for call, part in zip(self.streams, parts, strict=True):
            call.send_framed(b"".join(part))


class _Nobody:
    def on_message(self, message: bytes) -> None: ...
    def on_half_close(self) -> None: ...
    def on_writable(self) -> None: ...
    def on_closed(self, error: object) -> None: ...


class _Results(_Nobody):
    def __init__(self, stub: _Stub, call: Call) -> None:
        self._stub = stub
        call.start()
        stub.streams.append(call)
        self._first = True

    def on_message(self, message: bytes) -> None:
        if self._first:
            self._first = False
            return
        result = pb.WatchJobsRequest.FromString(message).result
        self._stub.answered += 1
        self._stub.failed += result.status != pb.SUCCESS


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(*, rate: int, seconds: float, at_once: int, answer_s: float, protocol: str = "http") -> Cost:
    """`rate` triggers a second for so long, or `at_once` in one moment; the app answers each after `answer_s`."""
    port, app_port = free_port(), free_port()
    stub = _Stub(f"127.0.0.1:{port}")
    server = Server(methods=stub.methods())
    await server.listen("127.0.0.1", port)
    with tempfile.TemporaryDirectory() as directory:
        log = (Path(directory) / "log").open("wb")
        app = await asyncio.create_subprocess_exec(sys.executable, "-c", _APP, str(app_port), str(answer_s))
        command = [sys.executable, "-m", "scheduler", "sidecar", "--app-id=measured", f"--app-port={app_port}"]
        command += [
            "--dapr-http-port=0",
            "--dapr-grpc-port=0",
            f"--app-protocol={protocol}",
            f"--scheduler-host-address={stub.address}",
        ]
        sidecar = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(30):
                while len(stub.streams) < 3:
                    await asyncio.sleep(0.05)
            stub.send(100)
            await _answered(stub, 100, 30)
            pid = sidecar.pid
            before, cpu, began = _rss(pid), _cpu_s(pid), time.monotonic()
            total = at_once or int(rate * seconds)
            peak = before
            if at_once:
                stub.send(at_once)
            else:
                sent = 0
                while sent < total:
                    due = min(total, int((time.monotonic() - began) * rate) + 1)
                    stub.send(due - sent)
                    sent = due
                    await asyncio.sleep(0.005)
            while stub.answered < 100 + total:
                assert time.monotonic() - began < 120, f"{stub.answered} of {total} are answered"
                peak = max(peak, _rss(pid))
                await asyncio.sleep(0.02)
            assert not stub.failed, (
                f"{stub.failed} of {total} have failed: {(Path(directory) / 'log').read_text()[-2000:]}"
            )
            return Cost(total, time.monotonic() - began, _cpu_s(pid) - cpu, before, max(peak, _rss(pid)))
        finally:
            for process in (sidecar, app):
                process.terminate()
                await process.wait()
            await server.close(grace_s=0)
            log.close()


async def _answered(stub: _Stub, count: int, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while stub.answered < count:
            await asyncio.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--in-flight", type=int, default=10_000)
    arguments = parser.parse_args()
    print(
        "steady:    ", asyncio.run(measure(rate=arguments.rate, seconds=arguments.seconds, at_once=0, answer_s=0.002))
    )
    print("in flight: ", asyncio.run(measure(rate=0, seconds=0, at_once=arguments.in_flight, answer_s=10)))


if __name__ == "__main__":
    main()
