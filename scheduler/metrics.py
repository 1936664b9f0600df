"""Every metric's name, labels and help, and the plain counters that the rooms keep for them.

The hot path counts in slotted attributes; a custom collector turns these into Prometheus samples when somebody scrapes.
Our names begin with scheduler_; the reference's names (scheduler-service.md 7.3) stand beside them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

LATENESS_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# Of the reference's histogram (7.3); each is one of the above.
_REFERENCE_BOUNDS_S = (0.1, 0.5, 1, 5, 10)
_TYPES = ("job", "actor")
# Concurrency limits with a series of their own; apps choose their names, so the number must be bounded.
GATE_SERIES_MAX = 500
# How long everything may be held up at once: a turn of the loop, a collection of garbage.
HOLD_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
DURATION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Histogram:
    """Counts per bucket, cheap enough for the hot path."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the buckets' upper ends in seconds, ascending."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def samples(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets and the sum, as prometheus_client takes them."""
        labels = (*map(str, map(float, self.bounds)), "+Inf")
        return list(zip(labels, map(float, accumulate(self.counts)), strict=True)), self.total

    def milliseconds(self, bounds_s: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
        """The same in milliseconds, with fewer buckets; `bounds_s` must be among our bounds."""
        counts = list(accumulate(self.counts))
        buckets = [(f"{bound * 1000:g}", float(counts[self.bounds.index(bound)])) for bound in bounds_s]
        return [*buckets, ("+Inf", float(counts[-1]))], self.total * 1000


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
        self.fenced_writes = self.finished = self.resyncs = 0

    def result(self, is_actor: bool, succeeded: bool, seconds: float) -> None:  # noqa: FBT001 - hot path
        """One result of an app."""
        (self.succeeded if succeeded else self.failed)[is_actor] += 1
        self.acknowledgement_seconds[is_actor].observe(seconds)


class DeliveryStatistics:
    """Counted by the delivery room."""

    __slots__ = ("lateness", "sent", "unanswered", "undelivered")

    def __init__(self) -> None:
        """All zero. Pairs are (job, actor)."""
        self.sent = self.unanswered = 0
        self.undelivered = [0, 0]
        self.lateness = Histogram(LATENESS_BOUNDS_S)

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


Buckets = tuple[list[tuple[str, float]], float]
"""A histogram's cumulative buckets by upper end, and its sum."""


class Sample(NamedTuple):
    """One metric: kind is counter, gauge or histogram; values by label (without one, under an empty string)."""

    kind: str
    name: str
    text: str
    label: str
    read: Callable[[], Mapping[str, float] | Mapping[str, Buckets]]


def pair(values: list[int]) -> dict[str, float]:
    """(job, actor) by label."""
    return dict(zip(_TYPES, map(float, values), strict=True))


def one(value: float) -> dict[str, float]:
    """A metric without labels."""
    return {"": value}


_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class StatisticsCollector(Collector):
    """Turns samples into what prometheus_client serves."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        """Reads nothing yet."""
        self._samples = tuple(samples)

    def collect(self) -> Iterator[Metric]:
        """Called at each scrape, in the endpoint's thread or loop."""
        for sample in self._samples:
            labels = [sample.label] if sample.label else []
            family = _FAMILIES[sample.kind](sample.name, sample.text, labels=labels)
            for label, value in sample.read().items():
                shown = [label] if labels else []
                if isinstance(value, tuple):
                    family.add_metric(shown, buckets=value[0], sum_value=value[1])
                else:
                    family.add_metric(shown, value)
            yield family


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
    refusals: Callable[[], Mapping[str, float]],
    etcd_requests: Callable[[], dict[str, float]],
) -> list[Sample]:
    """All metrics of a replica. `gauges` gives the instant values by the names used below, `gates` each concurrency limit and what waits at it."""

    def gauge(name: str, text: str, source: str) -> Sample:
        return Sample("gauge", name, text, "", lambda: one(gauges[source]()))

    def counter(name: str, text: str, read: Callable[[], float]) -> Sample:
        return Sample("counter", name, text, "", lambda: one(read()))

    def typed(name: str, text: str, values: list[int]) -> Sample:
        return Sample("counter", name, text, "type", lambda: pair(values))

    def histogram(name: str, text: str, source: Histogram) -> Sample:
        return Sample("histogram", name, text, "", lambda: {"": source.samples()})

    def per_gate(kind: str, name: str, text: str, read: Callable[[ConcurrencyGate, int], int]) -> list[Sample]:
        def values() -> dict[str, float]:
            totals: dict[str, float] = {}
            for gate, pending in gates():
                label = gate.label if len(totals) < GATE_SERIES_MAX or gate.label in totals else "other"
                totals[label] = totals.get(label, 0) + read(gate, pending)
            return totals

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
        histogram("scheduler_trigger_lateness_seconds", "From the due time to the stream.", delivery.lateness),
        Sample(
            "histogram",
            "scheduler_trigger_ack_duration_seconds",
            "From the stream to the result.",
            "type",
            lambda: {
                kind: source.samples() for kind, source in zip(_TYPES, engine.acknowledgement_seconds, strict=True)
            },
        ),
        counter("scheduler_triggers_sent", "Triggers written to streams.", lambda: delivery.sent),
        typed("scheduler_triggers_succeeded", "Triggers that an app took.", engine.succeeded),
        typed("scheduler_triggers_failed", "Triggers that an app failed.", engine.failed),
        typed("scheduler_triggers_undeliverable", "Due jobs that found no stream.", delivery.undelivered),
        gauge("scheduler_triggers_in_flight", "Triggers sent and not answered.", "in_flight"),
        gauge("scheduler_oldest_in_flight_seconds", "Age of the oldest trigger not answered.", "oldest_in_flight"),
        counter("scheduler_triggers_unanswered", "Triggers given up by --ack-timeout.", lambda: delivery.unanswered),
        gauge("scheduler_triggers_waiting", "Due jobs that wait for a stream (staged).", "waiting"),
        gauge("scheduler_connections", "Open gRPC connections.", "connections"),
        Sample(
            "counter",
            "scheduler_connection_refusals",
            "Connections and calls refused or ended for what the peer did.",
            "reason",
            lambda: dict(refusals()),
        ),
        gauge("scheduler_watch_streams", "Connected WatchJobs streams.", "streams"),
        gauge("scheduler_jobs", "Jobs of the owned partitions.", "jobs"),
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
        Sample("counter", "scheduler_etcd_requests", "Requests to etcd.", "operation", etcd_requests),
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
                for kind, source in zip(_TYPES, engine.acknowledgement_seconds, strict=True)
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
