"""Runs the product's own command in this process, with one flaw put into it: production code has no switch for any of this.

    SCHEDULER_TEST_CRASH=commit:before:3   end the process (as kill -9 does) before the third commit is sent to etcd, or after it was answered
    SCHEDULER_TEST_STALL=FILE              the engine stops firing once FILE is there: as if it had lost its wake-up

`python -m tests.faults.launcher serve ...` takes the arguments of `scheduler`.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scheduler.cli import main
from scheduler.delivery.hub import Hub
from scheduler.engine import commits
from scheduler.engine.engine import Engine
from scheduler.etcd.api import Delete, Operation, Put, Txn
from scheduler.etcd.client import Client

# The steps of a job's life at which etcd is asked, each told from the others by the operations of its transaction.
ETCD_STEPS = ("put", "claim", "commit", "checkpoint", "delete", "release")
STEPS = (*ETCD_STEPS, "fire", "ack")


def step_of(operations: Sequence[Operation]) -> str | None:
    """Which step a transaction is; None: none that is crashed at."""
    inner = [
        one for operation in operations for one in (operation.success if isinstance(operation, Txn) else (operation,))
    ]
    for operation in inner:
        key = operation.key
        if isinstance(operation, Put):
            if b"/claims/" in key:
                return "claim"
            if b"/journal/" in key:
                return "commit"
            if b"/checkpoint/" in key:
                return "checkpoint"
            if b"/jobs/" in key and key.count(b"/") > 3:
                return "put"
        elif isinstance(operation, Delete):
            if b"/claims/" in key:
                return "release"
            if b"/jobs/" in key:
                return "delete"
    return None


class CrashPoint:
    """Ends the process at one place, once it has been passed often enough."""

    def __init__(self, text: str) -> None:
        self.step, self.side, count = text.split(":")
        self.left = int(count)
        assert self.step in STEPS and self.side in {"before", "after"}, text

    def passed(self, step: str | None, side: str) -> None:
        if step == self.step and side == self.side:
            self.left -= 1
            if self.left <= 0:
                print(f"crash point {step} {side}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)


def install_crash(point: CrashPoint) -> None:
    original_txn, original_ack = Client.txn, Hub.acknowledge
    original_flush = Hub.flush

    async def txn(self: Client, compares: Any, success: Any, failure: Any = (), **more: Any) -> Any:
        step = step_of(success)
        point.passed(step, "before")
        result = await original_txn(self, compares, success, failure, **more)
        point.passed(step, "after")
        return result

    def flush(self: Hub) -> None:
        if any(stream.output for stream in self._dirty):
            point.passed("fire", "before")
        original_flush(self)
        if point.step == "fire" and point.side == "after":
            # The bytes are with the connection; give the loop the turn in which it writes them.
            import asyncio

            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, point.passed, "fire", "after")

    def acknowledge(self: Hub, *arguments: Any) -> bool:
        point.passed("ack", "before")
        known = original_ack(self, *arguments)
        point.passed("ack", "after")
        return known

    if point.step == "checkpoint":
        commits._FOLD_BATCHES = 3
    Client.txn = txn  # type: ignore[method-assign]
    Hub.flush = flush  # type: ignore[method-assign]
    Hub.acknowledge = acknowledge  # type: ignore[method-assign]


def install_stall(file: Path) -> None:
    original: Callable[[Engine], None] = Engine._run_due

    def run_due(self: Engine) -> None:
        if not file.exists():
            original(self)

    Engine._run_due = run_due  # type: ignore[method-assign]


if __name__ == "__main__":
    if crash := os.environ.get("SCHEDULER_TEST_CRASH"):
        install_crash(CrashPoint(crash))
    if stall := os.environ.get("SCHEDULER_TEST_STALL"):
        install_stall(Path(stall))
    sys.exit(main())
