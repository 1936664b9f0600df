"""Every metric's name, labels and help: what Prometheus sees of the counters in `metrics` and of the rooms' instant values.

Our names begin with scheduler_; the reference's names (scheduler-service.md 7.3) can stand beside them.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from scheduler.exposition import TYPES, Histogram, Labels, Sample, Table, capped, one, pair
from scheduler.metrics import (
    ClusterStatistics,
    DeliveryStatistics,
    EngineStatistics,
    IdentityStatistics,
    KubernetesStatistics,
    ProcessStatistics,
    RpcStatistics,
)

# Of the reference's histogram (7.3); each is one of LATENESS_BOUNDS_S.
_REFERENCE_BOUNDS_S = (0.1, 0.5, 1, 5, 10)
# Concurrency limits with series of their own; others choose their names, so the number must be bounded.
GATE_SERIES_MAX = 500


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
    reference_names: bool = True,
) -> list[Sample]:
    """All metrics of a replica. By the names used below `gauges` gives instant values, `tables` those with labels.

    `gates` gives each concurrency limit and what waits at it. `reference_names`: the reference's names too.
    """

    def gauge(name: str, text: str, source: str) -> Sample:
        return Sample("gauge", name, text, "", lambda: one(gauges[source]()))

    def gauge_counter(name: str, text: str, source: str) -> Sample:
        return Sample("counter", name, text, "", lambda: one(gauges[source]()))

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

        prefixes = ("", "dapr_") if reference_names else ("",)
        return [
            Sample(kind, f"{prefix}scheduler_concurrency_{name}", text, "concurrency_key", values)
            for prefix in prefixes
        ]

    ours = [
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
            lambda: {name: counted.lateness.samples() for name, counted in delivery.namespaces.items()},
        ),
        Sample(
            "counter",
            "scheduler_triggers_late",
            "First deliveries more than a second late, by what held them up.",
            "reason",
            lambda: dict(delivery.late),
        ),
        Sample(
            "gauge",
            "scheduler_namespace_jobs",
            "Jobs of the owned partitions, by the app's namespace.",
            "app_namespace",
            lambda: {name: counted.jobs for name, counted in delivery.namespaces.items()},
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
        counter(
            "scheduler_occurrences_taken_over",
            "Occurrences that were due when their partition came to this replica: its last owner may have sent them too.",
            lambda: engine.taken_over_due,
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
        table("counter", "grpc_server_started", "Calls begun.", ("grpc_service", "grpc_method"), "grpc_started"),
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
        Sample(
            "counter",
            "scheduler_watch_stream_disconnects",
            "WatchJobs streams that have ended, by status.",
            "code",
            lambda: dict(rpc.stream_ends),
        ),
        gauge_counter(
            "scheduler_watch_stream_blocked_seconds",
            "Time in which streams took no triggers because their readers did not keep up, of all streams together.",
            "stream_blocked",
        ),
        gauge("scheduler_jobs", "Jobs of the owned partitions.", "jobs"),
        gauge(
            "scheduler_payloads_resting", "Jobs whose payloads are in etcd alone until they are due soon.", "resting"
        ),
        gauge("scheduler_payloads_resting_bytes", "What these payloads would take.", "resting_bytes"),
        counter("scheduler_payload_loads", "Payloads loaded again.", lambda: engine.payload_loads),
        counter(
            "scheduler_payload_load_failures",
            "Loads of payloads that etcd did not answer; each is tried again.",
            lambda: engine.payload_load_failures,
        ),
        counter(
            "scheduler_payloads_awaited",
            "Due jobs that had to wait for their payloads.",
            lambda: engine.payloads_awaited,
        ),
        gauge("scheduler_next_due_timestamp_seconds", "When the next job is due; 0: none is.", "next_due"),
        typed("scheduler_jobs_created", "Accepted jobs.", rpc.created),
        typed("scheduler_jobs_refused", "Refused jobs.", rpc.created_failed),
        typed("scheduler_jobs_deleted", "Deletions of single jobs.", rpc.deleted),
        gauge("scheduler_owned_partitions", "Partitions that this replica owns.", "owned"),
        gauge("scheduler_partitions", "Partitions of the cluster.", "partitions"),
        gauge("scheduler_uncommitted_results", "Results not committed yet.", "uncommitted"),
        Sample(
            "gauge",
            "scheduler_config_reload_success",
            "Whether the file of settings could be taken over when it was last read.",
            "",
            lambda: one(float(process.settings_taken)),
        ),
        Sample(
            "gauge",
            "scheduler_config_reload_timestamp_seconds",
            "When settings were last taken over, at the start or by a reload.",
            "",
            lambda: one(process.settings_taken_s),
        ),
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
        histogram(
            "scheduler_partition_release_duration_seconds",
            "Stopping, finishing and committing one partition that is handed over.",
            engine.release_seconds,
        ),
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
        gauge_counter("scheduler_etcd_txn_conflicts", "Transactions whose condition did not hold.", "etcd_conflicts"),
        gauge(
            "scheduler_etcd_watch_lag_seconds",
            "Since etcd last said how far the watches are; it is asked every five seconds.",
            "watch_lag",
        ),
        gauge("scheduler_clock_timestamp_seconds", "What time it is here.", "clock"),
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
    ]
    if not reference_names:
        return ours
    return [
        *ours,
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
