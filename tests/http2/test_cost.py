"""What a call and a trigger cost, counted in calls of functions: the same on every machine, so that a cost that creeps in is seen at once.

`pytest -s tests/http2/test_cost.py` prints the figures. A bound may be lowered; who raises one says why in its line.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.clock import SystemClock
from scheduler.core.lifecycle import DEFAULT_POLICY, Job, State
from scheduler.core.shares import Seat, Shares
from scheduler.delivery.hub import Hub
from scheduler.http2 import frames
from scheduler.http2.call import Unary
from scheduler.http2.grpc import frame_message
from scheduler.http2.headers import encode_block
from scheduler.http2.server import Server
from scheduler.metrics import DeliveryStatistics, RpcStatistics
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.watch import Watch
from tests.http2.wire import connected

ROUNDS = 500
# Calls of Python functions and of built-in ones. Triggers go out a hundred a turn, and each answer comes in a frame of its own.
# Of a unary call two of each count how long it took, for grpc_server_handling_seconds: half a microsecond.
UNARY_MAX = (38.1, 33.1)
TRIGGER_MAX = (12.25, 19.25)

REQUEST = encode_block(
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/t/Echo"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
)


def counted(work: Callable[[], None]) -> tuple[int, int]:
    """How many Python functions and how many built-in ones are called by `work`."""
    seen: Counter[str] = Counter()

    def profile(_frame: object, event: str, _argument: object) -> None:
        seen[event] += 1

    gc.disable()  # what a collection finds are other tests' objects, and their finalizers would count
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return seen["call"] - 1, seen["c_call"] - 1


def per(rounds: int, counts: tuple[int, int], what: str, bound: tuple[float, float]) -> None:
    python, builtin = counts[0] / rounds, counts[1] / rounds
    print(f"{what}: {python:.2f} calls of Python functions, {builtin:.2f} of built-in ones")
    assert python <= bound[0] and builtin <= bound[1], what


def request(stream_id: int) -> bytes:
    body = frame_message(b"hello")
    return (
        frames.head(len(REQUEST), frames.HEADERS, frames.END_HEADERS, stream_id)
        + REQUEST
        + frames.head(len(body), frames.DATA, frames.END_STREAM, stream_id)
        + body
    )


async def test_a_unary_call() -> None:
    shell = connected(Server(methods={"/t/Echo": Unary(lambda message, call: call.reply(message))}))
    chunks = [request(number * 2 + 1) for number in range(ROUNDS)]
    shell.data_received(chunks[0])
    shell._flush()

    def work() -> None:
        for chunk in chunks[1:]:
            shell.data_received(chunk)
            shell._flush()

    per(ROUNDS - 1, counted(work), "unary call, each alone in its turn", UNARY_MAX)
    assert not shell.connection.streams
    assert sum(written.count(b"hello") for written in shell.transport.written) == ROUNDS


class Partition:
    epoch = 1
    in_flight = 0
    firing_ns = 0
    suspended = False


async def test_a_trigger() -> None:
    settled: list[Job] = []

    def settle(job: Job, _succeeded: bool) -> None:
        settled.append(job)

    shares = Shares()
    shares.update(1, Seat(1, 0), [])
    hub = Hub(
        replica="replica-0",
        settle=settle,
        may_fire=lambda: True,
        clock=SystemClock(),
        statistics=DeliveryStatistics(),
        window=1_000,
        shares=shares,
        excess_shrunk=lambda: None,
    )
    statistics = RpcStatistics()
    authorizer = Authorizer(tls=False, trust_domains=frozenset(), clock=SystemClock(), statistics=statistics)
    watch = Watch(hub=hub, authorizer=authorizer, statistics=statistics)
    shell = connected(Server(methods=watch.methods()))
    path = "/dapr.proto.scheduler.v1.Scheduler/WatchJobs"
    headers = encode_block(
        [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    )
    initial = frame_message(
        pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")).SerializeToString()
    )
    shell.data_received(
        frames.head(len(headers), frames.HEADERS, frames.END_HEADERS, 1)
        + headers
        + frames.head(len(initial), frames.DATA, 0, 1)
        + initial
    )
    shell._flush()
    assert hub.stream_count == 1
    key = next(iter(watch.open))._stream.targets[0].key
    jobs = []
    for number in range(ROUNDS):
        name = f"job-{number}"
        job = Job(
            key=name.encode(), generation=1, revision=1, trigger=pb.WatchJobsResponse(name=name).SerializeToString(), schedule=None,
            repeats=None, first_ns=1, expires_ns=None, policy=DEFAULT_POLICY,
        )  # fmt: skip
        job.target, job.partition = hub.target(key), Partition()
        jobs.append(job)
    answers = []
    for number in range(ROUNDS):
        result = pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=number + 1, status=pb.SUCCESS))
        body = frame_message(result.SerializeToString())
        answers.append(frames.head(len(body), frames.DATA, 0, 1) + body)
    batches = [b"".join(answers[start : start + 100]) for start in range(0, ROUNDS, 100)]
    hub._flush_scheduled = True  # the flush is called by hand, as the loop would at the end of the turn

    def work() -> None:
        for batch, start in enumerate(range(0, ROUNDS, 100)):
            for job in jobs[start : start + 100]:
                hub.offer(job, 2)
            hub.flush()
            hub._flush_scheduled = True
            shell._flush()
            shell.data_received(batches[batch])

    per(ROUNDS, counted(work), "trigger and its answer, from the hub to the socket and back", TRIGGER_MAX)
    assert len(settled) == ROUNDS and all(job.state is State.IN_FLIGHT for job in jobs)
