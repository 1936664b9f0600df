"""A run as its witnesses saw it: what clients asked and got, what watchers received and answered, what was done to the cluster, and what etcd held.

One JSON object a line (`history.jsonl`, and `etcd.jsonl` from an independent watcher). `t` is CLOCK_BOOTTIME in nanoseconds, one clock for all
processes of the machine; `wall` is the wall clock, which due times are given in.

    {"type":"invoke","t","wall","src","id","op":"schedule|delete|get|list","ns","app","name","ver","spec":{..},"overwrite","deadline_s"}
    {"type":"ok|fail|info","t","wall","src","id","code","ver"|"found":{name: ver}}        # info: it may or may not have happened
    {"type":"recv","t","wall","src","stream","trig","ns","app","name","ver","gen","sched","index","attempt","epoch","replica"}
    {"type":"ack","t","src","stream","trig","status":"SUCCESS|FAILED"}
    {"type":"stream_open|stream_lost","t","src","stream"}
    {"type":"start|stop","t","wall","fault","target","bound_s"}        # a disturbance; lateness is excused until stop + bound_s
    {"type":"final","t","wall","leases"}                               # the end: everything has healed and settled
    {"rev","t","key","put":{..}|"del":true,"create","mod"}             # etcd: see etcdlog.py
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]
NEVER = 1 << 62


@dataclass(slots=True)
class Call:
    """One API call, from its invocation to its answer."""

    begin: Record
    end: Record | None = None

    @property
    def outcome(self) -> str:
        return "info" if self.end is None else self.end["type"]

    @property
    def returned_t(self) -> int:
        """When its effect was surely there or surely not: never, for a call whose fate is unknown."""
        return NEVER if self.end is None or self.end["type"] == "info" else self.end["t"]

    @property
    def name(self) -> tuple[str, str, str]:
        return self.begin["ns"], self.begin["app"], self.begin.get("name", "")


@dataclass(slots=True)
class Delivery:
    """One trigger as a watcher received it, with what it answered."""

    recv: Record
    ack: Record | None = None

    @property
    def t(self) -> int:
        return self.recv["t"]

    @property
    def ack_t(self) -> int:
        return NEVER if self.ack is None else self.ack["t"]

    @property
    def succeeded(self) -> bool:
        return self.ack is not None and self.ack["status"] == "SUCCESS"

    @property
    def identity(self) -> tuple[int, int, int]:
        return self.recv["gen"], self.recv["sched"], self.recv["attempt"]


@dataclass(slots=True)
class Fault:
    """One disturbance, with the lateness it excuses."""

    name: str
    target: str
    start_wall: int
    stop_wall: int
    bound_s: float

    @property
    def excused_until_wall(self) -> int:
        return self.stop_wall + int(self.bound_s * 1e9)


@dataclass(slots=True)
class History:
    """All records of a run, sorted by time, in the shapes that the judge asks for."""

    calls: dict[int, Call] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    lost_streams: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    etcd: list[Record] = field(default_factory=list)
    final: Record | None = None

    @classmethod
    def of(cls, records: Iterable[Record]) -> "History":
        """Raises ValueError for a record that is none."""
        history = cls()
        open_faults: dict[tuple[str, str], Fault] = {}
        unanswered: dict[tuple[str, int], list[Delivery]] = {}
        rest = []
        for record in records:
            (history.etcd if "rev" in record else rest).append(record)
        history.etcd.sort(key=lambda record: record["rev"])
        rest.sort(key=lambda record: record["t"])
        for record in rest:
            kind = record["type"]
            if kind == "invoke":
                history.calls[record["id"]] = Call(record)
            elif kind in {"ok", "fail", "info"}:
                history.calls[record["id"]].end = record
            elif kind == "recv":
                delivery = Delivery(record)
                history.deliveries.append(delivery)
                unanswered.setdefault((record["stream"], record["trig"]), []).append(delivery)
            elif kind == "ack":
                for delivery in unanswered.pop((record["stream"], record["trig"]), []):
                    delivery.ack = record
            elif kind == "stream_lost":
                history.lost_streams[record["stream"]] = record["t"]
            elif kind == "start":
                fault = Fault(record["fault"], record["target"], record["wall"], NEVER, record["bound_s"])
                history.faults.append(fault)
                open_faults[record["fault"], record["target"]] = fault
            elif kind == "stop":
                open_faults.pop((record["fault"], record["target"])).stop_wall = record["wall"]
            elif kind == "final":
                history.final = record
                break  # what comes later is clients being ended
            elif kind != "stream_open":
                raise ValueError(f"record of an unknown type: {record}")
        return history


def read(paths: Iterable[Path]) -> Iterator[Record]:
    """The records of saved files; lines that begin with # are remarks."""
    for path in paths:
        with path.open() as lines:
            for line in lines:
                if line.strip() and not line.startswith("#"):
                    yield json.loads(line)


def write(path: Path, records: Iterable[Record]) -> None:
    with path.open("w") as out:
        for record in records:
            out.write(json.dumps(record, separators=(",", ":")) + "\n")
