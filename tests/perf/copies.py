"""How often the replica copies a payload, on a real etcd: `python -m tests.perf.copies`.

A preloaded library (copies.c, needs a C compiler) counts what memcpy carries in pieces of at least a page; what the kernel copies from and to sockets is not
in it. Per create: from the client's bytes to the job in memory, by way of etcd and its watch. Per trigger: from the job to the client.
"""

import os
import subprocess
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from google.protobuf.any_pb2 import Any as Payload

from tests.support.client import Client, Watcher, job_metadata
from tests.support.processes import EtcdServer, Replica, wait_until

_SOURCE = Path(__file__).with_name("copies.c")
_JOBS = 20
_DUE_S = 8


class _Counted(Replica):
    """A replica with the library in it."""

    def spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        library, self.counts = self.directory / "copies.so", self.directory / "copies"
        subprocess.run(["cc", "-O2", "-fno-builtin", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
        self.counts.write_bytes(bytes(8))
        super().spawn(command, {**(env or {}), "LD_PRELOAD": str(library), "COPIES_FILE": str(self.counts)})

    def copied(self) -> int:
        """Bytes so far."""
        return int.from_bytes(self.counts.read_bytes(), "little")


def measure(payload_bytes: int) -> dict[str, float]:
    """Copies of the payload per create and per trigger."""
    with tempfile.TemporaryDirectory() as name:
        etcd = EtcdServer(Path(name) / "etcd").start()
        replica = _Counted("counted", Path(name), etcd.endpoint)
        try:
            replica.start().wait_healthy(60)
            watcher, client = Watcher([replica.address], app_id="copies"), Client(replica.address)
            payload, moments = os.urandom(payload_bytes), [replica.copied()]
            due = time.time() + _DUE_S
            for number in range(_JOBS):
                job = {"due_time": _rfc3339(due), "data": Payload(value=payload)}
                client.schedule(f"job-{number}", metadata=job_metadata(app_id="copies"), **job)
            time.sleep(1)  # the watch has told of them
            moments.append(replica.copied())
            assert time.time() < due - 1, "creating took too long"
            wait_until(lambda: len(watcher.hits) >= _JOBS, timeout_s=60, what="all have come")
            moments.append(replica.copied())
            watcher.close()
            client.close()
        finally:
            replica.close()
            etcd.close()
    creates, triggers = (after - before for before, after in zip(moments, moments[1:], strict=False))
    return {"create": creates / _JOBS / payload_bytes, "trigger": triggers / _JOBS / payload_bytes}


def _rfc3339(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


def main() -> None:
    """The command."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--payload-bytes", type=int, nargs="*", default=[65_536, 1_048_576])
    for size in parser.parse_args().payload_bytes:
        print(f"{size} bytes:", ", ".join(f"{count:.1f} copies per {item}" for item, count in measure(size).items()))


if __name__ == "__main__":
    main()
