"""What the fuzzer sends: requests of all eight calls and of the operators' API, from plausible to garbage. Everything follows from one `random.Random`."""

from collections.abc import Callable
from random import Random

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from scheduler._pb.dapr.proto.common.v1 import common_pb2 as common
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.scheduler_admin.v1 import admin_pb2 as admin

NAMESPACES = ("fuzz", "fuzz-1", "fuz", "fuzz||a")
APPS = ("a", "a||b", "a%7Cb", "a-1", "A")
ACTOR_TYPES = ("t", "t||u", "t-1")
_ODD = (
    "",
    " ",
    "||",
    "|",
    "..",
    ".",
    "/",
    "\\",
    "#",
    "?",
    "%",
    "%7C",
    "\0",
    "\n",
    "\x7f",
    "\x85",
    "\x9b31m",
    "é",
    "\u202e",
    "\U0001f600",
    "ſ",
    "İ",
    "٣",
)
_SCHEDULES = (
    "* * * * * *", "*/2 * * * * *", "0 0 * * * *", "@every 1s", "@every 100ms", "@every 0s", "@every -1s",
    "@every 1ns", "@daily", "@yearly", "0 0 0 29 2 *", "TZ=America/New_York 0 30 1 * * *",
    "CRON_TZ=Europe/Dublin 0 0 0 1 1 *", "TZ=Antarctica/Troll * * * * * *", "TZ=Local 0 0 0 * * 0",
    "TZ=UTC @hourly", "0 , * * * *", ", , , , , ,", "0 0 0 30 2 ?", "59 59 23 31 12 6",
    "0-59/7,1,,2 */3 1-5/2 ?/2 jan-MAR sun,mon", "@every 9223372036854775807ns",
    "TZ=../../etc/passwd * * * * * *",
)  # fmt: skip
_TIMES = (
    "0s", "1s", "-1s", "1h", "2540400h", "1h1m1s1ms1us1ns", "0", "1.5h", ".5s", "1e3s", "P1D", "PT5S",
    "P1Y2M3W4DT5H6M7S", "R3/PT5S", "R0/P1D", "R5", "P", "PT", "PT5", "P-1D", "PT999999999999999999H",
    "P9999999Y", "P-9999999Y", "2030-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999+23:59", "2026-02-30T00:00:00Z", "9223372036854775807ns",
    "-9223372036854775808ns", "292y", "soon", "",
)  # fmt: skip


def text(rng: Random, longest: int = 40) -> str:
    """Any text, now and then a long one."""
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(("x", "é", "|", "9", ",", "*")) * rng.choice((511, 513, 4_095, 4_097, 70_000))
    parts = [
        rng.choice(_ODD) if rng.random() < 0.3 else chr(rng.randrange(33, 127)) for _ in range(rng.randrange(longest))
    ]
    return "".join(parts)


def bent(rng: Random, value: str) -> str:
    """A text with a few edits."""
    characters = list(value)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(characters) + 1)
        edit = rng.random()
        if edit < 0.4:
            characters.insert(
                at, rng.choice("0123456789*/,-?@ TZPRYMWDHS=:.+") if rng.random() < 0.8 else rng.choice(_ODD)
            )
        elif edit < 0.7 and at < len(characters):
            del characters[at]
        elif characters:
            characters[at:at] = characters[: rng.randrange(len(characters))]
    return "".join(characters)[:5_000]


def _field(rng: Random) -> str:
    """A cron field made of the grammar's pieces."""

    def item() -> str:
        span = f"{rng.randrange(60)}-{rng.randrange(60)}"
        step = f"/{rng.randrange(70)}" if rng.random() < 0.3 else ""
        return rng.choice(("*", "?", str(rng.randrange(70)), span, "jan", "SUN", "")) + step

    return ",".join(item() for _ in range(rng.choice((1, 1, 1, 2, 3))))


def schedule(rng: Random) -> str:
    if rng.random() < 0.4:
        zone = rng.choice(("", "", "TZ=UTC ", "CRON_TZ=Asia/Tehran ", "TZ=Pacific/Apia ", "TZ=Australia/Lord_Howe "))
        return zone + " ".join(_field(rng) for _ in range(6))
    return bent(rng, rng.choice(_SCHEDULES)) if rng.random() < 0.9 else text(rng)


def metadata(rng: Random) -> pb.JobMetadata:
    made = pb.JobMetadata(namespace=rng.choice(NAMESPACES), app_id=rng.choice(APPS))
    if rng.random() < 0.1:
        made.namespace = text(rng)
    if rng.random() < 0.1:
        made.app_id = text(rng)
    if rng.random() < 0.6:
        made.target.job.SetInParent()
    elif rng.random() < 0.9:
        made.target.actor.type = rng.choice(ACTOR_TYPES) if rng.random() < 0.9 else text(rng)
        made.target.actor.id = bent(rng, "id")
    if rng.random() < 0.2:
        made.concurrency_key = rng.choice(("k", "l", text(rng)))
    return made


def job(rng: Random) -> pb.Job:
    made = pb.Job()
    if rng.random() < 0.6:
        made.schedule = schedule(rng)
    if rng.random() < 0.4:
        made.repeats = rng.choice((0, 1, 2, 5, (1 << 32) - 1))
    if rng.random() < 0.5:
        made.due_time = bent(rng, rng.choice(_TIMES))
    if rng.random() < 0.3:
        made.ttl = bent(rng, rng.choice(_TIMES))
    if rng.random() < 0.5:
        made.data.CopyFrom(Any(type_url=text(rng), value=rng.randbytes(rng.choice((0, 1, 100, 2_000, 50_000)))))
    if rng.random() < 0.4:
        interval = Duration(
            seconds=rng.choice((0, 1, -1, -(1 << 63), (1 << 63) - 1)), nanos=rng.choice((0, -1, 1_000, (1 << 31) - 1))
        )
        constant = common.JobFailurePolicyConstant(interval=interval)
        if rng.random() < 0.7:
            constant.max_retries = rng.choice((0, 1, 3, (1 << 32) - 1))
        made.failure_policy.CopyFrom(rng.choice((
            common.JobFailurePolicy(), common.JobFailurePolicy(constant=constant), common.JobFailurePolicy(drop=common.JobFailurePolicyDrop())
        )))  # fmt: skip
    return made


def initial(rng: Random) -> pb.WatchJobsRequest:
    made = pb.WatchJobsRequestInitial(namespace=rng.choice(NAMESPACES), app_id=rng.choice(APPS))
    if rng.random() < 0.1:
        made.app_id = text(rng)
    made.actor_types.extend(rng.choice((*ACTOR_TYPES, text(rng))) for _ in range(rng.choice((0, 1, 2, 5))))
    if rng.random() < 0.4:
        made.accept_job_types.extend(rng.choice((0, 1, 2, -1)) for _ in range(rng.choice((1, 2, 3))))  # type: ignore[arg-type]
    for _ in range(rng.choice((0, 0, 1, 3))):
        limit = made.concurrency_limits.add(max_concurrent=rng.choice((-1, 0, 1, 2, 100, (1 << 31) - 1)))
        if rng.random() < 0.5:
            limit.name = rng.choice(("k", "l", text(rng)))
        if rng.random() < 0.9:
            limit.actor.type = rng.choice((*ACTOR_TYPES, text(rng)))
    return pb.WatchJobsRequest(initial=made)


def result(rng: Random, ids: range) -> pb.WatchJobsRequest:
    """An answer to one of these triggers, or to one that never was."""
    number = (
        rng.choice((0, (1 << 64) - 1, rng.randrange(1 << 63))) if rng.random() < 0.2 or not ids else rng.choice(ids)
    )
    return pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=number, status=rng.choice((0, 0, 0, 1, 1, 2, -1))))  # type: ignore[arg-type]


def _name(rng: Random) -> str:
    return bent(rng, rng.choice(("job", "n||m", "x"))) if rng.random() < 0.8 else text(rng)


def _schedule_job(rng: Random) -> pb.ScheduleJobRequest:
    body = job(rng) if rng.random() < 0.98 else None
    return pb.ScheduleJobRequest(name=_name(rng), job=body, metadata=metadata(rng), overwrite=rng.random() < 0.7)


def _delete_by_metadata(rng: Random) -> pb.DeleteByMetadataRequest:
    return pb.DeleteByMetadataRequest(metadata=metadata(rng), id_prefix_match=rng.choice((True, False, None)))


def _delete_by_name_prefix(rng: Random) -> pb.DeleteByNamePrefixRequest:
    return pb.DeleteByNamePrefixRequest(metadata=metadata(rng), name_prefix=bent(rng, "jo"))


def _run_now(rng: Random) -> admin.RunNowRequest:
    request_id = rng.choice(("12345678", "run" + str(rng.randrange(1 << 40)).zfill(8), text(rng)))
    return admin.RunNowRequest(name=_name(rng), metadata=metadata(rng), request_id=request_id)


def _drain_member(rng: Random) -> admin.DrainMemberRequest:
    # Never the replica's own name: a replica that drains fires nothing, as it should.
    return admin.DrainMemberRequest(
        replica=text(rng) + "?", undrain=rng.choice((True, False)), force=rng.choice((True, False))
    )


UNARY: dict[str, Callable[[Random], Message]] = {
    "ScheduleJob": _schedule_job,
    "GetJob": lambda rng: pb.GetJobRequest(name=_name(rng), metadata=metadata(rng)),
    "DeleteJob": lambda rng: pb.DeleteJobRequest(name=_name(rng), metadata=metadata(rng)),
    "ListJobs": lambda rng: pb.ListJobsRequest(metadata=metadata(rng)),
    "DeleteByMetadata": _delete_by_metadata,
    "DeleteByNamePrefix": _delete_by_name_prefix,
    "RunNow": _run_now,
    "GetStatus": lambda rng: admin.GetStatusRequest(with_etcd=rng.choice((True, False))),
    "ListMembers": lambda _rng: admin.ListMembersRequest(),
    "ListPartitions": lambda _rng: admin.ListPartitionsRequest(),
    "DrainMember": _drain_member,
}
_WEIGHTS = (60, 8, 8, 4, 3, 3, 6, 2, 1, 1, 1)
OPERATORS = frozenset({"RunNow", "GetStatus", "ListMembers", "ListPartitions", "DrainMember"})


def unary(rng: Random) -> tuple[str, bytes]:
    """A call and its request's bytes."""
    [method] = rng.choices(list(UNARY), _WEIGHTS)
    return method, damaged(rng, UNARY[method](rng).SerializeToString())


def damaged(rng: Random, message: bytes) -> bytes:
    """The bytes as they are, mostly; else bent or pure garbage."""
    kind = rng.random()
    if kind < 0.75:
        return message
    if kind < 0.78:
        return rng.randbytes(rng.choice((0, 1, 10, 300)))
    wire = bytearray(message)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(wire) + 1)
        edit = rng.random()
        if edit < 0.4 and at < len(wire):
            wire[at] ^= 1 << rng.randrange(8)
        elif edit < 0.6:
            del wire[at:]
        elif edit < 0.8:
            wire[at:at] = rng.choice(
                (
                    b"\xff" * 11,
                    b"\x0b",
                    b"\x0c",
                    b"\x7a\x04abcd",
                    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
                    rng.randbytes(3),
                )
            )
        else:
            wire[at:at] = wire[: rng.randrange(len(wire) + 1)]
    return bytes(wire[:200_000])
