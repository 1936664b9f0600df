"""WatchJobs (scheduler-service.md 5.4): a sidecar says what it takes, then answers each trigger by its id."""

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core import names
from scheduler.delivery.hub import Hub
from scheduler.delivery.routes import Limit, Stream
from scheduler.http2.call import Call, Method, Streaming
from scheduler.http2.grpc import RpcError, Status
from scheduler.metrics import RpcStatistics
from scheduler.rpc.authz import Authorizer
from scheduler.rpc.jobs import SERVICE, parse

# A stream that says nothing holds a connection for nothing (fault F37).
FIRST_MESSAGE_TIMEOUT_S = 10.0
# Far more than any sidecar declares; each costs memory for as long as the stream stands, and all streams together have a bound too.
LIMITS_MAX = 1_024
ACTOR_TYPES_MAX = 1_024
DECLARED_MAX = 500_000
_RESULT_TAG, _ID_TAG, _STATUS_TAG = 0x12, 0x08, 0x10


class Watch:
    """The servicer."""

    def __init__(self, *, hub: Hub, authorizer: Authorizer, statistics: RpcStatistics) -> None:
        """Streams attach to the hub."""
        self.hub = hub
        self.authorizer = authorizer
        self.statistics = statistics
        self.open: set[_JobWatch] = set()
        # Targets and limits that open streams declare.
        self.declared = 0

    def recheck(self) -> None:
        """End the streams whose peers' identities no longer hold: expired, or not under the trust anchors any more (reliability.md 5.2)."""
        for watch in list(self.open):
            watch.recheck()

    def methods(self) -> dict[str, Method]:
        """By full path."""
        return {f"/{SERVICE}/WatchJobs": Streaming(lambda call: _JobWatch(call, self))}

    def targets(self, call: Call, initial: pb.WatchJobsRequestInitial) -> list[str]:
        """What a stream takes, checked. Raises RpcError."""
        self.authorizer.check(call, initial.namespace, initial.app_id)
        if len(initial.actor_types) > ACTOR_TYPES_MAX:
            count = len(initial.actor_types)
            raise RpcError(
                Status.INVALID_ARGUMENT, f"actor_types has {count} entries; at most {ACTOR_TYPES_MAX} are allowed"
            )
        accepted: set[int] = set()
        for kind in initial.accept_job_types:
            if kind in accepted:
                known = kind in pb.JobTargetType.values()
                name = pb.JobTargetType.Name(kind) if known else str(kind)
                raise RpcError(Status.UNKNOWN, f"duplicate target type specified: {name}")
            accepted.add(kind)
        targets: list[str] = []
        if not accepted or pb.JOB_TARGET_TYPE_JOB in accepted:
            targets.append(_route(names.app_target(initial.namespace, initial.app_id), "app_id"))
        if not accepted or pb.JOB_TARGET_TYPE_ACTOR_REMINDER in accepted:
            targets.extend(
                _route(names.actor_target(initial.namespace, actor_type, ""), "actor_types")
                for actor_type in initial.actor_types
            )
        if not targets:
            raise RpcError(
                Status.INVALID_ARGUMENT,
                "the stream takes nothing: accept_job_types has no JOB_TARGET_TYPE_JOB and actor_types is empty",
            )
        return targets

    def limits(self, initial: pb.WatchJobsRequestInitial) -> list[Limit]:
        """The concurrency limits that a stream declares; those of no actor type or without a positive number mean nothing (5.7). Raises RpcError."""
        if len(initial.concurrency_limits) > LIMITS_MAX:
            count = len(initial.concurrency_limits)
            raise RpcError(
                Status.INVALID_ARGUMENT, f"concurrency_limits has {count} entries; at most {LIMITS_MAX} are allowed"
            )
        return [
            Limit(
                _route(names.actor_target(initial.namespace, limit.actor.type, ""), "concurrency_limits", limit.name),
                limit.name if limit.HasField("name") else None,
                limit.max_concurrent,
            )
            for limit in initial.concurrency_limits
            if limit.max_concurrent > 0 and limit.WhichOneof("target") == "actor"
        ]


def _route(target: names.Target, field: str, name: str = "") -> str:
    """What the target's triggers are routed by. Raises RpcError for one that no job can have: it would be kept for nothing."""
    if not names.fits(target, name):
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"{field}: {target.owner[:64]!r} in namespace {target.namespace[:64]!r} is longer than the "
            f"{names.NAME_MAX_BYTES} bytes that a job's name may have with it",
        )
    return names.route_key(target)


class _JobWatch:
    """One stream."""

    __slots__ = ("__weakref__", "_call", "_declared", "_end", "_owner", "_stream", "_timer")

    def __init__(self, call: Call, owner: Watch) -> None:
        self._call = call
        self._owner = owner
        self._stream: Stream | None = None
        self._declared = 0
        # The status that we end it with.
        self._end = Status.OK
        owner.open.add(self)
        self._timer = call.shell.loop.call_later(FIRST_MESSAGE_TIMEOUT_S, self._silent)

    def recheck(self) -> None:
        """See `Watch.recheck`."""
        if not self._owner.authorizer.still_holds(self._call.peer):
            self._owner.statistics.sidecar_errors["auth_failed"] += 1
            text = "the certificate of this connection has expired or is not trusted any more"
            self._owner.authorizer.log_denial(self._call, RpcError(Status.UNAUTHENTICATED, text))
            self._finish(Status.UNAUTHENTICATED, text)

    def _finish(self, status: Status, text: str) -> None:
        self._end = status
        self._call.finish(status, text)

    def _refuse(self, status: Status, text: str) -> None:
        """End a stream that does not keep to the protocol."""
        self._owner.statistics.sidecar_errors["recv_failed"] += 1
        self._finish(status, text)

    def _silent(self) -> None:
        self._refuse(Status.DEADLINE_EXCEEDED, f"no initial request within {FIRST_MESSAGE_TIMEOUT_S:.0f} s")

    def on_message(self, message: bytes) -> None:
        """A result, in its common shape read by hand; everything else the long way."""
        stream = self._stream
        if stream is not None and len(message) >= 4 and message[0] == _RESULT_TAG and message[2] == _ID_TAG:
            size = len(message)
            number, position = message[3], 4
            if number >= 0x80:
                number &= 0x7F
                shift = 7
                while position < size:
                    byte = message[position]
                    position += 1
                    number |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
            if position == size and message[1] == size - 2 and message[-1] < 0x80:
                self._owner.hub.acknowledge(stream, number, True)  # noqa: FBT003 - hot path
                return
        self._uncommon(message)

    def _uncommon(self, message: bytes) -> None:
        request = parse(pb.WatchJobsRequest, message)
        kind = request.WhichOneof("watch_job_request_type")
        if self._stream is None:
            if kind != "initial":
                self._refuse(Status.UNKNOWN, "initial request is required on stream connection")
                return
            self._timer.cancel()
            try:
                targets = self._owner.targets(self._call, request.initial)
                limits = self._owner.limits(request.initial)
            except RpcError as error:
                self._finish(error.status, error.message)
                return
            self._declared = len(targets) + len(limits)
            self._owner.declared += self._declared
            if self._owner.declared > DECLARED_MAX:
                self._refuse(
                    Status.RESOURCE_EXHAUSTED,
                    f"all streams together declare {self._owner.declared} targets and limits, at most {DECLARED_MAX} are allowed",
                )
                return
            self._call.start()
            self._stream = self._owner.hub.attach(self._call, targets, limits)
        elif kind == "result":
            # A status that we do not know is a failure, never a lost occurrence (W9).
            succeeded = request.result.status == pb.SUCCESS
            self._owner.hub.acknowledge(self._stream, request.result.id, succeeded)
        else:
            self._refuse(Status.INVALID_ARGUMENT, "only results may follow the initial request")

    def on_half_close(self) -> None:
        """Ends the stream at once; it is not a drain."""
        self._finish(Status.CANCELLED, "the client has closed its side")

    def on_writable(self) -> None:
        """The client reads again."""
        if self._stream is not None:
            self._owner.hub.writable(self._stream)

    def on_closed(self, error: RpcError | None) -> None:
        """The stream is gone: what it had in flight goes elsewhere."""
        self._timer.cancel()
        self._owner.open.discard(self)
        self._owner.declared -= self._declared
        ends, status = self._owner.statistics.stream_ends, (error.status if error is not None else self._end).name
        ends[status] = ends.get(status, 0) + 1
        if error is not None and error.status not in {Status.CANCELLED, Status.UNAVAILABLE}:
            self._owner.statistics.sidecar_errors["recv_failed"] += 1
        stream, self._stream = self._stream, None
        if stream is not None:
            self._owner.hub.detach(stream)
