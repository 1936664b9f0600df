"""The plain counters that the rooms keep, in slotted attributes that cost the hot path next to nothing; `samples` names them for Prometheus."""

from datetime import datetime

from scheduler.exposition import OTHER, Histogram

LATENESS_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# How long everything may be held up at once: a turn of the loop, a collection of garbage.
HOLD_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
# Namespaces with series of their own; others choose their names, so the number must be bounded.
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
        "payload_load_failures",
        "payload_loads",
        "payloads_awaited",
        "release_seconds",
        "resyncs",
        "succeeded",
        "taken_over_due",
    )

    def __init__(self) -> None:
        """All zero. Pairs are (job, actor)."""
        self.succeeded = [0, 0]
        self.failed = [0, 0]
        self.acknowledgement_seconds = (Histogram(DURATION_BOUNDS_S), Histogram(DURATION_BOUNDS_S))
        self.commit_seconds = Histogram(DURATION_BOUNDS_S)
        self.load_seconds, self.release_seconds = Histogram(DURATION_BOUNDS_S), Histogram(DURATION_BOUNDS_S)
        self.loop_lag_seconds = Histogram(DURATION_BOUNDS_S)
        self.blocked = self.checkpoints = self.commits = self.commit_retries = self.corrupt_records = 0
        self.payload_load_failures = self.payload_loads = self.payloads_awaited = 0
        self.fenced_writes = self.finished = self.given_up = self.resyncs = self.taken_over_due = 0

    def result(self, is_actor: bool, succeeded: bool, seconds: float) -> None:  # noqa: FBT001 - hot path
        """One result of an app."""
        (self.succeeded if succeeded else self.failed)[is_actor] += 1
        self.acknowledgement_seconds[is_actor].observe(seconds)


class NamespaceStatistics:
    """Counted for the targets of one namespace, which keep it, so that the hot path looks nothing up."""

    __slots__ = ("jobs", "lateness")

    def __init__(self) -> None:
        """No jobs yet."""
        self.jobs = 0
        self.lateness = Histogram(LATENESS_BOUNDS_S)


# What can hold a first delivery up, in the order in which it is asked about.
LATE_REASONS = ("take_over", "blocked", "no_stream", "previous", "limit", "streams_full", "behind")


class DeliveryStatistics:
    """Counted by the delivery room."""

    __slots__ = (
        "late",
        "namespaces",
        "repeated",
        "sent",
        "stream_blocked_s",
        "streams_opened",
        "unanswered",
        "undelivered",
    )

    def __init__(self) -> None:
        """All zero. Pairs are (job, actor)."""
        self.sent = self.streams_opened = self.unanswered = 0
        self.stream_blocked_s = 0.0
        self.undelivered = [0, 0]
        self.repeated = {"failed": 0, "stream_ended": 0}
        self.late = dict.fromkeys(LATE_REASONS, 0)
        # See `namespace`.
        self.namespaces: dict[str, NamespaceStatistics] = {}

    def namespace(self, name: str) -> NamespaceStatistics:
        """Where a namespace is counted; those beyond the limit share one place."""
        if name not in self.namespaces and len(self.namespaces) >= NAMESPACE_SERIES_MAX:
            name = OTHER
        return self.namespaces.setdefault(name, NamespaceStatistics())

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

    __slots__ = ("bulk_deleted", "created", "created_failed", "deleted", "sidecar_errors", "stream_ends")

    def __init__(self) -> None:
        """All zero."""
        self.created = [0, 0]
        self.created_failed = [0, 0]
        self.deleted = [0, 0]
        self.bulk_deleted = 0
        self.sidecar_errors = {"auth_failed": 0, "recv_failed": 0, "send_failed": 0}
        # WatchJobs streams that have ended, by status; the usual ones are shown before there is any.
        self.stream_ends = {"CANCELLED": 0, "UNAVAILABLE": 0}


class ProcessStatistics:
    """What holds the whole process up."""

    __slots__ = ("collection_seconds", "settings_taken", "settings_taken_s", "turn_seconds", "turn_seconds_max")

    def __init__(self) -> None:
        """Nothing yet."""
        self.collection_seconds, self.turn_seconds = Histogram(HOLD_BOUNDS_S), Histogram(HOLD_BOUNDS_S)
        self.turn_seconds_max = 0.0
        self.settings_taken, self.settings_taken_s = True, 0.0

    def note_settings(self, wall_s: float, *, taken: bool) -> None:
        """Settings were read: at the start, and at each change of their file."""
        self.settings_taken = taken
        if taken:
            self.settings_taken_s = wall_s

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
