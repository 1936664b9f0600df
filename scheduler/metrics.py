"""Every metric's name, labels and help, and the plain counters that the rooms keep for them.

The hot path counts in slotted attributes; a custom collector turns these into Prometheus samples when somebody scrapes.
Our names begin with scheduler_; the reference's names (scheduler-service.md 7.3) stand beside them.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from scheduler.exposition import OTHER, TYPES, Histogram, Labels, Sample, Table, capped, one, pair

LATENESS_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Of the reference's histogram (7.3); each is one of the above.
_REFERENCE_BOUNDS_S = (0.1, 0.5, 1, 5, 10)
# Concurrency limits and namespaces with series of their own; others choose their names, so the number must be bounded.
GATE_SERIES_MAX = 500
# How long everything may be held up at once: a turn of the loop, a collection of garbage.
HOLD_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
NAMESPACE_SERIES_MAX = 50
DURATION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class EngineStatistics:
    """Counted by the engine room."""

    __slots__ = (
        "acknowledgement_seconds",
        "blocked",
        "checkpoints",
        "commit_retries",
        "commit_seconds",
        "commits",
        "corrupt_records",
        "failed",
        "fenced_writes",
        "finished",
        "given_up",
        "load_seconds",
        "loop_lag_seconds",
        "resyncs",
        "succeeded",
    )

    def __init__(self) -> None:
        """All zero. Pairs are (job, actor)."""
        self.succeeded = [0, 0]
        self.failed = [0, 0]
        self.acknowledgement_seconds = (Histogram(DURATION_BOUNDS_S), Histogram(DURATION_BOUNDS_S))
        self.commit_seconds = Histogram(DURATION_BOUNDS_S)
        self.load_seconds = Histogram(DURATION_BOUNDS_S)
        self.loop_lag_seconds = Histogram(DURATION_BOUNDS_S)
        self.blocked = self.checkpoints = self.commits = self.commit_retries = self.corrupt_records = 0
        self.fenced_writes = self.finished = self.given_up = self.resyncs = 0

    def result(self, is_actor: bool, succeeded: bool, seconds: float) -> None:  # noqa: FBT001 - hot path
        """One result of an app."""
        (self.succeeded if succeeded else self.failed)[is_actor] += 1
        self.acknowledgement_seconds[is_actor].observe(seconds)


class DeliveryStatistics:
    """Counted by the delivery room."""

    __slots__ = ("lateness", "repeated", "sent", "streams_opened", "unanswered", "undelivered")

    def __init__(self) -> None:
        """All zero. Pairs are (job, actor)."""
        self.sent = self.streams_opened = self.unanswered = 0
        self.undelivered = [0, 0]
        self.repeated = {"failed": 0, "stream_ended": 0}
        # By namespace; see `lateness_of`.
        self.lateness: dict[str, Histogram] = {}

    def lateness_of(self, namespace: str) -> Histogram:
        """Where a namespace's lateness is counted: kept by its targets, so that the hot path looks nothing up."""
        if namespace not in self.lateness and len(self.lateness) >= NAMESPACE_SERIES_MAX:
            namespace = OTHER
        return self.lateness.setdefault(namespace, Histogram(LATENESS_BOUNDS_S))

    def undeliverable(self, is_actor: bool) -> None:  # noqa: FBT001 - hot path
        """A due job found no stream of its target."""
        self.undelivered[is_actor] += 1


class ClusterStatistics:
    """Counted by the cluster room."""

    __slots__ = ("claims_gained", "claims_lost", "claims_released", "keepalive_failures", "leases_lost")

    def __init__(self) -> None:
        """All zero."""
        self.claims_gained = self.claims_lost = self.claims_released = self.keepalive_failures = self.leases_lost = 0


class RpcStatistics:
    """Counted by the rpc room. Pairs are (job, actor)."""

    __slots__ = ("bulk_deleted", "created", "created_failed", "deleted", "sidecar_errors")

    def __init__(self) -> None:
        """All zero."""
        self.created = [0, 0]
        self.created_failed = [0, 0]
        self.deleted = [0, 0]
        self.bulk_deleted = 0
        self.sidecar_errors = {"auth_failed": 0, "recv_failed": 0, "send_failed": 0}


class ProcessStatistics:
    """What holds the whole process up."""

    __slots__ = ("collection_seconds", "turn_seconds", "turn_seconds_max")

    def __init__(self) -> None:
        """Nothing yet."""
        self.collection_seconds, self.turn_seconds = Histogram(HOLD_BOUNDS_S), Histogram(HOLD_BOUNDS_S)
        self.turn_seconds_max = 0.0

    def turn(self, seconds: float) -> None:
        """One turn of the event loop."""
        self.turn_seconds.observe(seconds)
        self.turn_seconds_max = max(self.turn_seconds_max, seconds)


class IdentityStatistics:
    """Counted by the identity room."""

    __slots__ = ("expiries", "reloads")

    def __init__(self) -> None:
        """Nothing yet."""
        self.reloads = {"ok": 0, "failed": 0}
        self.expiries: dict[str, float] = {}

    def note_expiry(self, source: str, expires: datetime | None) -> None:
        """When the certificate of a source ends."""
        if expires is not None:
            self.expiries[source] = expires.timestamp()


class KubernetesStatistics:
    """Counted by the kubernetes room."""

    __slots__ = ("deleted_jobs", "errors", "reconciliations")

    def __init__(self) -> None:
        """All zero."""
        self.deleted_jobs = self.errors = self.reconciliations = 0


class ConcurrencyGate(Protocol):
    """What the delivery room shows of a concurrency limit."""

    @property
    def label(self) -> str:
        """The actor type, or type:key."""

    @property
    def in_flight(self) -> int:
        """Triggers in flight."""

    @property
    def throttled(self) -> int:
        """Triggers held back so far."""


def scheduler_samples(
    *,
    engine: EngineStatistics,
    delivery: DeliveryStatistics,
    cluster: ClusterStatistics,
    rpc: RpcStatistics,
    identity: IdentityStatistics,
    kubernetes: KubernetesStatistics,
    process: ProcessStatistics,
    gauges: dict[str, Callable[[], float]],
    gates: Callable[[], Sequence[tuple[ConcurrencyGate, int]]],
    tables: dict[str, Callable[[], Table]],
) -> list[Sample]:
    """All metrics of a replica. By the names used below `gauges` gives instant values, `tables` those with labels.

    `gates` gives each concurrency limit and what waits at it.
    """

    def gauge(name: str, text: str, source: str) -> Sample:
        return Sample("gauge", name, text, "", lambda: one(gauges[source]()))

    def counter(name: str, text: str, read: Callable[[], float]) -> Sample:
        return Sample("counter", name, text, "", lambda: one(read()))

    def typed(name: str, text: str, values: list[int]) -> Sample:
        return Sample("counter", name, text, "type", lambda: pair(values))

    def histogram(name: str, text: str, source: Histogram) -> Sample:
        return Sample("histogram", name, text, "", lambda: {"": source.samples()})

    def table(kind: str, name: str, text: str, labels: Labels, source: str) -> Sample:
        return Sample(kind, name, text, labels, lambda: tables[source]())  # noqa: PLW0108 - asked at the scrape, not now

    def per_gate(kind: str, name: str, text: str, read: Callable[[ConcurrencyGate, int], int]) -> list[Sample]:
        def values() -> dict[str, float]:
            return capped(((gate.label, read(gate, pending)) for gate, pending in gates()), GATE_SERIES_MAX)

        return [
            Sample(kind, f"{prefix}scheduler_concurrency_{name}", text, "concurrency_key", values)
            for prefix in ("", "dapr_")
        ]

    return [
        *per_gate("gauge", "inflight", "Triggers in flight under a concurrency limit.", lambda gate, _: gate.in_flight),
        *per_gate("gauge", "pending", "Due jobs that wait at a concurrency limit.", lambda _, pending: pending),
        *per_gate(
            "counter", "throttled", "Triggers that a concurrency limit held back.", lambda gate, _: gate.throttled
        ),
        table("gauge", "scheduler_build_info", "What runs: always 1.", ("version", "python"), "build"),
        Sample(
            "histogram",
            "scheduler_trigger_lateness_seconds",
            "From the due time to the stream, of first deliveries.",
            "app_namespace",
            lambda: {name: source.samples() for name, source in delivery.lateness.items()},
        ),
        table(
            "gauge",
            "scheduler_namespace_triggers_waiting",
            "Due jobs that wait for a stream (staged), by the app's namespace.",
            "app_namespace",
            "namespace_waiting",
        ),
        table(
            "gauge",
            "scheduler_namespace_watch_streams",
            "Connected WatchJobs streams, by the app's namespace.",
            "app_namespace",
            "namespace_streams",
        ),
        Sample(
            "histogram",
            "scheduler_trigger_ack_duration_seconds",
            "From the stream to the result.",
            "type",
            lambda: {
                kind: source.samples() for kind, source in zip(TYPES, engine.acknowledgement_seconds, strict=True)
            },
        ),
        counter("scheduler_triggers_sent", "Triggers written to streams.", lambda: delivery.sent),
        Sample(
            "counter",
            "scheduler_triggers_repeated",
            "Triggers sent again, after a failure or because their stream ended.",
            "reason",
            lambda: dict(delivery.repeated),
        ),
        counter(
            "scheduler_occurrences_given_up",
            "Occurrences that failed more often than their failure policy allows.",
            lambda: engine.given_up,
        ),
        typed("scheduler_triggers_succeeded", "Triggers that an app took.", engine.succeeded),
        typed("scheduler_triggers_failed", "Triggers that an app failed.", engine.failed),
        typed("scheduler_triggers_undeliverable", "Due jobs that found no stream.", delivery.undelivered),
        gauge("scheduler_triggers_in_flight", "Triggers sent and not answered.", "in_flight"),
        gauge("scheduler_oldest_in_flight_seconds", "Age of the oldest trigger not answered.", "oldest_in_flight"),
        counter("scheduler_triggers_unanswered", "Triggers given up by --ack-timeout.", lambda: delivery.unanswered),
        gauge("scheduler_triggers_waiting", "Due jobs that wait for a stream (staged).", "waiting"),
        gauge("scheduler_connections", "Open gRPC connections.", "connections"),
        table(
            "counter",
            "scheduler_connection_refusals",
            "Connections and calls refused or ended for what the peer did.",
            "reason",
            "refusals",
        ),
        table(
            "counter",
            "grpc_server_handled",
            "Calls that ended, by their status.",
            ("grpc_service", "grpc_method", "grpc_code"),
            "grpc_handled",
        ),
        table(
            "histogram",
            "grpc_server_handling_seconds",
            "From a unary call's request to its answer, where that is no error.",
            ("grpc_service", "grpc_method"),
            "grpc_seconds",
        ),
        gauge("scheduler_watch_streams", "Connected WatchJobs streams.", "streams"),
        counter("scheduler_watch_streams_opened", "WatchJobs streams taken in.", lambda: delivery.streams_opened),
        gauge("scheduler_jobs", "Jobs of the owned partitions.", "jobs"),
        gauge("scheduler_next_due_timestamp_seconds", "When the next job is due; 0: none is.", "next_due"),
        typed("scheduler_jobs_created", "Accepted jobs.", rpc.created),
        typed("scheduler_jobs_refused", "Refused jobs.", rpc.created_failed),
        typed("scheduler_jobs_deleted", "Deletions of single jobs.", rpc.deleted),
        gauge("scheduler_owned_partitions", "Partitions that this replica owns.", "owned"),
        gauge("scheduler_partitions", "Partitions of the cluster.", "partitions"),
        gauge("scheduler_uncommitted_results", "Results not committed yet.", "uncommitted"),
        histogram("scheduler_loop_turn_seconds", "Turns of the event loop.", process.turn_seconds),
        Sample(
            "gauge",
            "scheduler_loop_turn_seconds_max",
            "The longest turn of the event loop.",
            "",
            lambda: one(process.turn_seconds_max),
        ),
        histogram(
            "scheduler_garbage_collection_seconds", "Pauses of the garbage collector.", process.collection_seconds
        ),
        gauge("scheduler_ready", "1 while the replica is ready.", "ready"),
        histogram("scheduler_commit_duration_seconds", "One commit of progress.", engine.commit_seconds),
        histogram(
            "scheduler_event_loop_lag_seconds", "How much late the event loop wakes up.", engine.loop_lag_seconds
        ),
        gauge("scheduler_tasks", "Tasks of the event loop.", "tasks"),
        gauge("scheduler_oldest_due_seconds", "Age of the oldest due occurrence that has not left.", "oldest_due"),
        gauge("scheduler_engine_stuck_seconds", "Time without progress while something is to be done.", "stuck"),
        histogram("scheduler_partition_load_duration_seconds", "Loading one partition.", engine.load_seconds),
        counter("scheduler_commits", "Commits of progress.", lambda: engine.commits),
        counter("scheduler_commit_retries", "Commits sent again.", lambda: engine.commit_retries),
        counter("scheduler_fenced_writes", "Commits refused because a claim was lost.", lambda: engine.fenced_writes),
        counter("scheduler_checkpoints", "Journals folded.", lambda: engine.checkpoints),
        counter("scheduler_jobs_finished", "Finished jobs whose record was deleted.", lambda: engine.finished),
        counter("scheduler_corrupt_records", "Stored records that do not parse.", lambda: engine.corrupt_records),
        counter("scheduler_partition_resyncs", "Partitions read again after a lost watch.", lambda: engine.resyncs),
        counter("scheduler_firing_blocked", "Times that firing had to stop.", lambda: engine.blocked),
        counter("scheduler_claims_gained", "Claims taken.", lambda: cluster.claims_gained),
        counter("scheduler_claims_released", "Claims handed over.", lambda: cluster.claims_released),
        counter("scheduler_claims_lost", "Claims lost.", lambda: cluster.claims_lost),
        counter("scheduler_lease_keepalive_failures", "Keepalives that failed.", lambda: cluster.keepalive_failures),
        counter("scheduler_leases_lost", "Leases lost.", lambda: cluster.leases_lost),
        gauge(
            "scheduler_lease_expiry_timestamp_seconds", "Until when the lease is trusted; 0: there is none.", "lease"
        ),
        table("counter", "scheduler_etcd_requests", "Requests to etcd.", ("operation", "result"), "etcd_requests"),
        table(
            "histogram",
            "scheduler_etcd_request_duration_seconds",
            "Requests that etcd answered.",
            "operation",
            "etcd_seconds",
        ),
        table("counter", "scheduler_etcd_watch_reconnects", "Watch streams lost.", "reason", "etcd_reconnects"),
        Sample(
            "counter",
            "scheduler_certificate_reloads",
            "Certificates and trust anchors exchanged while running.",
            "result",
            lambda: dict(identity.reloads),
        ),
        Sample(
            "gauge",
            "scheduler_certificate_expiry_timestamp_seconds",
            "When our certificates end.",
            "source",
            lambda: dict(identity.expiries),
        ),
        counter(
            "scheduler_namespace_jobs_deleted", "Jobs deleted with their namespace.", lambda: kubernetes.deleted_jobs
        ),
        counter("scheduler_namespace_errors", "Failures of the namespace controller.", lambda: kubernetes.errors),
        counter(
            "scheduler_namespace_reconciliations",
            "Comparisons with all namespaces.",
            lambda: kubernetes.reconciliations,
        ),
        gauge("dapr_scheduler_sidecars_connected", "Connected WatchJobs streams.", "streams"),
        typed("dapr_scheduler_jobs_created", "Accepted jobs.", rpc.created),
        typed("dapr_scheduler_jobs_created_failed", "Refused jobs.", rpc.created_failed),
        typed("dapr_scheduler_jobs_deleted", "Deleted jobs.", rpc.deleted),
        counter("dapr_scheduler_jobs_bulk_deleted", "Bulk deletes.", lambda: rpc.bulk_deleted),
        typed("dapr_scheduler_jobs_triggered", "Triggers that an app took.", engine.succeeded),
        typed("dapr_scheduler_jobs_failed", "Triggers that an app failed.", engine.failed),
        typed("dapr_scheduler_jobs_undelivered", "Due jobs that found no stream.", delivery.undelivered),
        Sample(
            "histogram",
            "dapr_scheduler_trigger_latency",
            "From the stream to the result, in milliseconds.",
            "type",
            lambda: {
                kind: source.milliseconds(_REFERENCE_BOUNDS_S)
                for kind, source in zip(TYPES, engine.acknowledgement_seconds, strict=True)
            },
        ),
        Sample(
            "counter",
            "dapr_scheduler_sidecar_errors",
            "Errors of sidecars.",
            "reason",
            lambda: dict(rpc.sidecar_errors),
        ),
    ]
