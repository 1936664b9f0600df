"""One watching client, a process of its own: a WatchJobs stream to every replica, by plain grpcio; writes down what it receives and answers.

python -m tests.faults.watcher '{"src":..,"ns":..,"app":..,"addresses":[..],"answer":"success|flaky|mute","history":..}'
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.faults.etcdwatch import boottime_ns
from tests.support.client import SERVICE, UNLIMITED

_OPTIONS = [
    *UNLIMITED,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class Recorder:
    """Appends records to a file, each in one write, so that nothing is lost with the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, **record: Any) -> None:
        record = {"t": boottime_ns(), "wall": time.time_ns(), **record}
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")


class Watcher:
    """One application's streams."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.recorder = Recorder(Path(config["history"]))
        self.stopped = threading.Event()
        self.streams = 0
        self.lock = threading.Lock()

    def follow(self, address: str) -> None:
        """Keep a stream to one replica, made again whenever it ends."""
        config = self.config
        initial = pb.WatchJobsRequestInitial(app_id=config["app"], namespace=config["ns"])
        while not self.stopped.is_set():
            with self.lock:
                self.streams += 1
                stream = f"{config['src']}-{self.streams}"
            with grpc.insecure_channel(address, options=_OPTIONS) as channel:
                outgoing: Queue[Any] = Queue()
                outgoing.put(pb.WatchJobsRequest(initial=initial))
                call = channel.stream_stream(
                    f"{SERVICE}/WatchJobs",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=pb.WatchJobsResponse.FromString,
                )(iter(outgoing.get, None))
                opened = False
                try:
                    call.initial_metadata()
                    opened = True
                    self.recorder.note(type="stream_open", src=config["src"], stream=stream, address=address)
                    for message in call:
                        self.take(message, stream, outgoing)
                except grpc.RpcError:
                    pass
                finally:
                    if opened:
                        self.recorder.note(type="stream_lost", src=config["src"], stream=stream)
                    outgoing.put(None)
            self.stopped.wait(0.1)

    def take(self, message: pb.WatchJobsResponse, stream: str, outgoing: Queue[Any]) -> None:
        src, occurrence, version = self.config["src"], message.occurrence, StringValue()
        message.data.Unpack(version)
        trigger = {"src": src, "stream": stream, "trig": message.id}
        self.recorder.note(
            type="recv",
            **trigger,
            ns=message.metadata.namespace,
            app=message.metadata.app_id,
            name=message.name,
            ver=version.value.rstrip(),
            gen=occurrence.generation,
            sched=occurrence.scheduled_seconds * 1_000_000_000 + occurrence.scheduled_nanos,
            index=occurrence.index,
            attempt=occurrence.attempt,
            epoch=occurrence.epoch,
            replica=occurrence.replica,
        )
        if self.config["answer"] == "mute":
            return
        # An app that fails now and then: the first attempt of every third occurrence of a flaky job.
        failed = message.name.startswith("flaky") and occurrence.attempt == 0 and occurrence.index % 3 == 0
        status = pb.FAILED if failed else pb.SUCCESS
        self.recorder.note(type="ack", **trigger, status="FAILED" if failed else "SUCCESS")
        outgoing.put(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=message.id, status=status)))


def main(config: dict[str, Any]) -> None:
    watcher = Watcher(config)
    signal.signal(signal.SIGTERM, lambda *_: watcher.stopped.set())
    for address in config["addresses"]:
        threading.Thread(target=watcher.follow, args=(address,), daemon=True).start()
    while not watcher.stopped.wait(0.5):
        pass


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
