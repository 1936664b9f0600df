"""A run of a cluster that makes no mistakes, and the mistakes: each mutation spoils the records in one way and names the verdict that must follow.

The cluster is one line of reasoning per job: due times by addition, deliveries a millisecond late, acknowledgements a millisecond later, commits
two after that. Half-way one of its two replicas crashes; the other takes over, and what was missed is caught up in order.
"""

import copy
import random
from collections.abc import Callable
from typing import Any

from tests.checker.history import Record

S = 1_000_000_000
MS = 1_000_000
START = 1_700_000_000 * S
OFFSET = START - 1_000 * S  # wall minus boottime
CRASH, BACK, END = 6 * S, 11 * S, 30 * S
# Their owner crashes: partition 1.
SPECS: dict[str, tuple[int, Record]] = {
    "tick": (0, {"schedule": "@every 1s"}),
    "tock": (1, {"schedule": "@every 1s"}),
    "cron": (0, {"schedule": "*/2 * * * * *"}),
    "once": (1, {"due_time": "3s"}),
    "late-once": (1, {"due_time": "8s"}),
    "thrice": (0, {"schedule": "@every 2s", "repeats": 3}),
    "brief": (1, {"schedule": "@every 2s", "ttl": "7s"}),
    "dropped": (0, {"schedule": "@every 1s"}),
    "changed": (0, {"schedule": "@every 1s"}),
}


class Run:
    """Collects the records of one clean run."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.rev = 10
        self.trig = 0
        self.sequence = {0: 0, 1: 0}

    def note(self, at: int, **record: Any) -> None:
        self.records.append({"t": START - OFFSET + at, "wall": START + at, **record})

    def etcd(self, at: int, key: str, rev: int, **record: Any) -> None:
        self.records.append({"t": START - OFFSET + at, "rev": rev, "key": key, **record})


def _call(run: Run, number: int, at: int, op: str, name: str, **more: Any) -> None:
    run.note(at, type="invoke", id=number, src="c", op=op, ns="n", app="a", name=name, deadline_s=5, **more)
    run.note(at + 2 * MS, type="ok", id=number, src="c", code="OK")


def clean() -> list[Record]:
    """A run without a flaw."""
    run = Run()
    for name in ("A", "B"):
        run.etcd(-9 * S, f"members/{name}", 1, put={"replica": name, "state": "serving"}, create=1, mod=1)
    run.etcd(-8 * S, "claims/00000", 2, put={"replica": "A"}, create=2, mod=2)
    run.etcd(-8 * S, "claims/00001", 3, put={"replica": "B"}, create=3, mod=3)
    run.note(CRASH, type="start", fault="F1", target="B", bound_s=0.5)
    run.note(BACK, type="stop", fault="F1", target="B")
    todo: list[tuple[int, Callable[[], None]]] = []
    number = 0
    for gen, (name, (partition, spec)) in enumerate(SPECS.items(), start=101):
        number += 1
        _call(run, number, 0, "schedule", name, ver=f"v{gen}", spec=spec, overwrite=False)
        ends = {"dropped": 4 * S + 500 * MS, "changed": 5 * S + 500 * MS}.get(name, END)
        todo += _life(run, name, gen, partition, spec, 0, ends)
    number += 1
    _call(run, number, 4 * S + 500 * MS, "delete", "dropped")
    todo.append((4 * S + 501 * MS, lambda: _gone(run, "dropped", 0, 4 * S + 501 * MS)))
    number += 1
    spec = {"schedule": "@every 1s"}
    _call(run, number, 5 * S + 500 * MS, "schedule", "changed", ver="v201", spec=spec, overwrite=True)
    todo += _life(run, "changed", 201, 0, spec, 5 * S + 500 * MS, END)
    number += 1
    _call(run, number, 20 * S, "get", "tick")
    run.records[-1]["ver"] = "v101"
    todo.append((BACK - S, lambda: _expire(run)))
    todo.append((BACK - S // 2, lambda: _take(run)))
    for _, step in sorted(todo, key=lambda entry: entry[0]):
        step()
    run.note(END, type="final", leases=1)
    return run.records


def _next_rev(run: Run) -> int:
    run.rev += 1
    return run.rev


def _gone(run: Run, name: str, partition: int, at: int) -> None:
    rev = _next_rev(run)
    run.etcd(at, f"jobs/{partition:05d}/app||n||a||{name}", rev, **{"del": True}, create=0, mod=rev)


def _expire(run: Run) -> None:
    """B's lease ends: its member key and its claims go in one revision."""
    rev = _next_rev(run)
    for key in ("members/B", "claims/00001"):
        run.etcd(BACK - S, key, rev, **{"del": True}, create=0, mod=rev)


def _take(run: Run) -> None:
    rev = _next_rev(run)
    run.etcd(BACK - S // 2, "claims/00001", rev, put={"replica": "A"}, create=rev, mod=rev)


def _life(
    run: Run, name: str, gen: int, partition: int, spec: Record, begin: int, end: int
) -> list[tuple[int, Callable[[], None]]]:
    """What happens to one version, as steps in time."""
    steps: list[tuple[int, Callable[[], None]]] = []
    first, every, count = begin + MS + 2 * S, 0, 1
    if "due_time" in spec:
        first = begin + MS + int(spec["due_time"][:-1]) * S
    elif spec["schedule"].startswith("@every"):
        every, count = int(spec["schedule"][7:-1]) * S, 1_000
        first = begin + MS + every
    else:
        every, count, first = 2 * S, 1_000, 2 * S
    expires = begin + MS + int(spec["ttl"][:-1]) * S if "ttl" in spec else None
    count = spec.get("repeats", count)
    schedule = [at for at in (first + index * every for index in range(count)) if at < end - S // 5]
    if expires is not None:
        schedule = [at for at in schedule if at <= expires]
    finite = count < 1_000 or expires is not None
    record = {"gen": gen, "ver": f"v{gen}", "first": START + first, "expires": START + expires if expires else None}
    steps.append((begin + MS, lambda: _stored(run, name, partition, record, begin + MS)))
    free = 0
    for index, sched in enumerate(schedule):
        due = max(sched, free)
        if partition == 1 and CRASH <= due < BACK:
            due = BACK
        done = finite and index == len(schedule) - 1
        if due < end:
            steps.append((due, lambda i=index, s=sched, d=due, o=done: _fire(run, name, gen, partition, i, s, d, o)))
        free = due + 10 * MS
        if done:
            at = due + 500 * MS
            steps.append((at, lambda at=at: _gone(run, name, partition, at)))
    return steps


def _stored(run: Run, name: str, partition: int, record: Record, at: int) -> None:
    rev = _next_rev(run)
    run.etcd(at, f"jobs/{partition:05d}/app||n||a||{name}", rev, put=record, create=rev, mod=rev)


def _fire(run: Run, name: str, gen: int, partition: int, index: int, sched: int, due: int, done: bool) -> None:
    run.trig += 1
    crashed = partition == 1 and due < CRASH
    claims = [one for one in run.records if one.get("key") == f"claims/{partition:05d}" and "put" in one]
    owner = {"replica": claims[-1]["put"]["replica"], "epoch": claims[-1]["create"]}
    stream = "s-B" if crashed else "s-A"
    identity = {"ns": "n", "app": "a", "name": name, "ver": f"v{gen}", "gen": gen, "sched": START + sched}
    run.note(due + MS, type="recv", src="w", stream=stream, trig=run.trig, index=index, attempt=0, **identity, **owner)
    run.note(due + 2 * MS, type="ack", src="w", stream=stream, trig=run.trig, status="SUCCESS")
    rev = _next_rev(run)
    run.sequence[partition] += 1
    key = f"ledger/{partition:05d}/journal/{run.sequence[partition]:016x}"
    run.etcd(due + 4 * MS, key, rev, put={"entries": [[gen, index + 1, 0, done]]}, create=rev, mod=rev)


# Mutations: each takes a clean run's records and a generator of chances, and spoils one thing.


def _fires(records: list[Record], *names: str) -> list[int]:
    found = [index for index, one in enumerate(records) if one.get("type") == "recv"]
    return [index for index in found if not names or records[index]["name"] in names]


def _ack_of(records: list[Record], recv: Record) -> Record:
    return next(one for one in records if one.get("type") == "ack" and one["trig"] == recv["trig"])


def drop(records: list[Record], rng: random.Random) -> str:
    needed = [
        i for i in _fires(records, "tick", "tock", "cron", "once", "thrice") if records[i]["sched"] < START + 27 * S
    ]
    recv = records[rng.choice(needed)]
    records.remove(_ack_of(records, recv))
    records.remove(recv)
    return "lost"


def shift_earlier(records: list[Record], rng: random.Random) -> str:
    calm = [
        index
        for index in _fires(records, "tick", "cron")
        if records[index]["wall"] - records[index]["sched"] < 100 * MS
    ]
    recv = records[rng.choice(calm)]
    for one in (recv, _ack_of(records, recv)):
        one["t"], one["wall"] = one["t"] - 100 * MS, one["wall"] - 100 * MS
    return "early"


def shift_later(records: list[Record], rng: random.Random) -> str:
    recv = records[rng.choice(_fires(records, "once"))]
    for one in (recv, _ack_of(records, recv)):
        one["t"], one["wall"] = one["t"] + 1_500 * MS, one["wall"] + 1_500 * MS
    return "late"


def repeat(records: list[Record], rng: random.Random) -> str:
    again = copy.deepcopy(records[rng.choice(_fires(records))])
    again["trig"] += 100_000
    again["t"], again["wall"] = again["t"] + MS, again["wall"] + MS
    records.append(again)
    return "dup"


def swap(records: list[Record], rng: random.Random) -> str:
    """Two occurrences that were caught up one after the other change places."""
    caught_up = [i for i in _fires(records, "tock") if START + BACK <= records[i]["wall"] < START + BACK + 40 * MS]
    at = rng.randrange(len(caught_up) - 1)
    one, other = records[caught_up[at]], records[caught_up[at + 1]]
    for mine, theirs in ((one, other), (_ack_of(records, one), _ack_of(records, other))):
        for clock in ("t", "wall"):
            mine[clock], theirs[clock] = theirs[clock], mine[clock]
    return "reordered"


def change_token(records: list[Record], rng: random.Random) -> str:
    records[rng.choice(_fires(records))]["epoch"] += 1_000
    return "stale_fire"


def change_version(records: list[Record], rng: random.Random) -> str:
    again = copy.deepcopy(records[rng.choice(_fires(records))])
    again["ver"], again["trig"] = "v-unheard-of", again["trig"] + 100_000
    records.append(again)
    return "ghost"


def fire_once_more(records: list[Record], rng: random.Random) -> str:
    last = _fires(records, "thrice")[-1]
    again = copy.deepcopy(records[last])
    for clock in ("sched", "wall", "t"):
        again[clock] += 2 * S
    again["trig"], again["index"] = again["trig"] + 100_000, 3
    records.append(again)
    return "over_repeat"


def fire_deleted(records: list[Record], rng: random.Random) -> str:
    last = _fires(records, "dropped")[-1]
    again = copy.deepcopy(records[last])
    for clock in ("sched", "wall", "t"):
        again[clock] += 12 * S
    again["trig"], again["index"] = again["trig"] + 100_000, again["index"] + 12
    records.append(again)
    return "stale_version"


def _batches(records: list[Record]) -> list[Record]:
    return [one for one in records if one.get("key", "").startswith("ledger/")]


def fall_back(records: list[Record], rng: random.Random) -> str:
    last = [one for one in _batches(records) if one["put"]["entries"][0][0] == 101][-1]
    last["put"]["entries"].append([102, 1, 0, False])
    return "counter_regress"


def commit_unowned(records: list[Record], rng: random.Random) -> str:
    expiry = next(one for one in records if one.get("key") == "claims/00001" and "del" in one)
    put = {"entries": [[102, 5, 0, False]]}
    late = {"t": expiry["t"] + MS, "rev": expiry["rev"], "key": "ledger/00001/journal/00000000000000ff", "put": put}
    later = [one for one in records if one.get("key", "").startswith("ledger/00001") and one["rev"] > expiry["rev"]]
    for number, one in enumerate(later, start=0x100):
        one["key"] = f"ledger/00001/journal/{number:016x}"
    late["rev"] = expiry["rev"] + 0.5  # between two revisions
    records.append(late)
    return "stale_commit"


def own_twice(records: list[Record], rng: random.Random) -> str:
    claim = next(one for one in records if one.get("key") == "claims/00000")
    records.append({**claim, "rev": claim["rev"] + 0.5, "mod": claim["rev"] + 1, "create": claim["create"]})
    return "two_owners"


def answer_wrongly(records: list[Record], rng: random.Random) -> str:
    next(one for one in records if one.get("ver") == "v101" and one["type"] == "ok")["ver"] = "v-unheard-of"
    return "api"


def hang(records: list[Record], rng: random.Random) -> str:
    call = next(one for one in records if one.get("op") == "get")
    call["deadline_s"] = -2
    return "hang"


def leave_lease(records: list[Record], rng: random.Random) -> str:
    records[-1]["leases"] = 2
    return "leak"


def leave_record(records: list[Record], rng: random.Random) -> str:
    records.remove(next(one for one in records if "del" in one and one["key"].endswith("||once")))
    return "zombie_key"


MUTATIONS = (
    drop,
    shift_earlier,
    shift_later,
    repeat,
    swap,
    change_token,
    change_version,
    fire_once_more,
    fire_deleted,
    fall_back,
    commit_unowned,
    own_twice,
    answer_wrongly,
    hang,
    leave_lease,
    leave_record,
)
