"""What the dashboards show: five lists of panels, each with its queries and what they mean."""

from typing import NamedTuple

US = 'namespace=~"$namespace", job=~"$job"'
_POD = US + ', instance=~"$instance"'


class Panel(NamedTuple):
    """One panel: queries are (expression, legend)."""

    title: str
    kind: str
    text: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 12
    height: int = 7
    # Green below the first, orange from there, red from the second.
    steps: tuple[float, float] | None = None
    stacked: bool = False


def _rate(metric: str, by: str, more: str = "", where: str = US) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}{', ' + more if more else ''}}}[$__rate_interval]))"


def _quantile(q: float, metric: str, by: str = "", where: str = US) -> str:
    return f"histogram_quantile({q}, sum by ({by + ', ' if by else ''}le) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


LATE = "scheduler_trigger_lateness_seconds"
_GOOD = f'sum(rate({LATE}_bucket{{{US}, le="1.0"}}[$__range])) / sum(rate({LATE}_count{{{US}}}[$__range]))'

OVERVIEW = [
    Panel(
        "Lateness, p99",
        "stat",
        "From the due time to the stream, of first deliveries.",
        ((_quantile(0.99, LATE), ""),),
        "s",
        6,
        4,
        (0.25, 1),
    ),
    Panel(
        "Error budget left",
        "stat",
        "Of the objective: 99.9 % of triggers within one second, over the range shown.",
        ((f"1 - (1 - {_GOOD}) / 0.001", ""),),
        "percentunit",
        6,
        4,
    ),
    Panel(
        "Occurrences given up",
        "stat",
        "Failed more often than their failure policies allow, over the range shown.",
        ((f"sum(increase(scheduler_occurrences_given_up_total{{{US}}}[$__range]))", ""),),
        "short",
        6,
        4,
        (1, 100),
    ),
    Panel(
        "Repeated triggers",
        "stat",
        "Sent again after a failure, or because their stream ended, over the range shown.",
        ((f"sum(increase(scheduler_triggers_repeated_total{{{US}}}[$__range]))", ""),),
        "short",
        6,
        4,
    ),
    Panel(
        "Triggers by result",
        "timeseries",
        "What apps answered, and what found no stream.",
        (
            ("sum(rate(scheduler_triggers_succeeded_total{" + US + "}[$__rate_interval]))", "taken"),
            ("sum(rate(scheduler_triggers_failed_total{" + US + "}[$__rate_interval]))", "failed"),
            ("sum(rate(scheduler_triggers_undeliverable_total{" + US + "}[$__rate_interval]))", "no stream"),
        ),
        "ops",
        stacked=True,
    ),
    Panel(
        "Lateness",
        "heatmap",
        "How many triggers were how late.",
        ((f"sum by (le) (increase({LATE}_bucket{{{US}}}[$__rate_interval]))", "{{le}}"),),
        "s",
    ),
    Panel(
        "Backlog",
        "timeseries",
        "Due jobs that wait for a stream, triggers in flight, results that wait for a commit.",
        (
            (f"sum(scheduler_triggers_waiting{{{US}}})", "waiting"),
            (f"sum(scheduler_triggers_in_flight{{{US}}})", "in flight"),
            (f"sum(scheduler_uncommitted_results{{{US}}})", "uncommitted"),
        ),
    ),
    Panel(
        "Oldest",
        "timeseries",
        "Age of the oldest due occurrence that has not left, and of the oldest trigger without an answer.",
        (
            (f"max(scheduler_oldest_due_seconds{{{US}}})", "due"),
            (f"max(scheduler_oldest_in_flight_seconds{{{US}}})", "in flight"),
        ),
        "s",
    ),
    Panel(
        "Partitions by owner",
        "timeseries",
        "Stacked they should fill all partitions: below is a gap, above is double ownership.",
        (
            (f"sum by (instance) (scheduler_owned_partitions{{{US}}})", "{{instance}}"),
            (f"max(scheduler_partitions{{{US}}})", "all"),
        ),
        stacked=True,
    ),
    Panel(
        "Streams by namespace",
        "timeseries",
        "Connected WatchJobs streams.",
        ((f"sum by (app_namespace) (scheduler_namespace_watch_streams{{{US}}})", "{{app_namespace}}"),),
    ),
    Panel(
        "Late by reason",
        "timeseries",
        "First deliveries more than a second late, by what held them up; occurrences that were due while their partition changed its owner.",
        (
            (_rate("scheduler_triggers_late_total", "reason"), "{{reason}}"),
            (f"sum(rate(scheduler_occurrences_taken_over_total{{{US}}}[$__rate_interval]))", "due at a take-over"),
        ),
        "ops",
        24,
    ),
    Panel(
        "Jobs",
        "timeseries",
        "Jobs of all partitions, and how many of them have payloads that are in etcd alone until they are due soon.",
        (
            (f"sum(scheduler_jobs{{{US}}})", "jobs"),
            (f"sum(scheduler_payloads_resting{{{US}}})", "with a resting payload"),
        ),
        width=8,
    ),
    Panel(
        "Alerts", "table", "What fires or is about to.", ((f'ALERTS{{alertname=~"Scheduler.*", {US}}}', ""),), width=8
    ),
    Panel(
        "Versions",
        "table",
        "What runs.",
        ((f"count by (version, python) (scheduler_build_info{{{US}}})", ""),),
        width=8,
    ),
]

REPLICAS = [
    Panel(
        "Ready",
        "state-timeline",
        "1 while a replica is ready.",
        ((f"scheduler_ready{{{_POD}}}", "{{instance}}"),),
        width=24,
        height=5,
    ),
    Panel(
        "CPU",
        "timeseries",
        "Cores in use.",
        ((f"rate(process_cpu_seconds_total{{{_POD}}}[$__rate_interval])", "{{instance}}"),),
    ),
    Panel(
        "Memory",
        "timeseries",
        "Resident memory of the process.",
        ((f"process_resident_memory_bytes{{{_POD}}}", "{{instance}}"),),
        "bytes",
    ),
    Panel(
        "Event loop lag, p99",
        "timeseries",
        "How much late the loop wakes up: everything of the replica is late by that much.",
        ((_quantile(0.99, "scheduler_event_loop_lag_seconds", "instance", _POD), "{{instance}}"),),
        "s",
    ),
    Panel(
        "Turns of the loop, longest",
        "timeseries",
        "How long everything was held up at once.",
        ((f"scheduler_loop_turn_seconds_max{{{_POD}}}", "{{instance}}"),),
        "s",
    ),
    Panel(
        "Garbage collection",
        "timeseries",
        "Share of time.",
        ((f"rate(scheduler_garbage_collection_seconds_sum{{{_POD}}}[$__rate_interval])", "{{instance}}"),),
        "percentunit",
    ),
    Panel(
        "Open files",
        "timeseries",
        "Each connection is one, below the limit.",
        ((f"process_open_fds{{{_POD}}}", "{{instance}}"), (f"min(process_max_fds{{{_POD}}})", "limit")),
    ),
    Panel(
        "Lease left",
        "timeseries",
        "How long the lease was trusted still, when the replica was scraped.",
        (
            (
                f"scheduler_lease_expiry_timestamp_seconds{{{_POD}}} - timestamp(scheduler_lease_expiry_timestamp_seconds{{{_POD}}})",
                "{{instance}}",
            ),
        ),
        "s",
    ),
    Panel(
        "Connections", "timeseries", "Open gRPC connections.", ((f"scheduler_connections{{{_POD}}}", "{{instance}}"),)
    ),
    Panel(
        "Claims",
        "timeseries",
        "Partitions taken, handed over and lost: the log of rebalances.",
        (
            (f"increase(scheduler_claims_gained_total{{{_POD}}}[$__rate_interval])", "{{instance}} taken"),
            (f"increase(scheduler_claims_released_total{{{_POD}}}[$__rate_interval])", "{{instance}} handed over"),
            (f"increase(scheduler_claims_lost_total{{{_POD}}}[$__rate_interval])", "{{instance}} lost"),
        ),
    ),
    Panel(
        "Partition loads, p99",
        "timeseries",
        "How long a partition takes to load after it is claimed.",
        ((_quantile(0.99, "scheduler_partition_load_duration_seconds", "instance", _POD), "{{instance}}"),),
        "s",
    ),
    Panel(
        "Hand-overs, p99",
        "timeseries",
        "How long a partition pauses here before its next owner can take it.",
        ((_quantile(0.99, "scheduler_partition_release_duration_seconds", "instance", _POD), "{{instance}}"),),
        "s",
    ),
    Panel(
        "Clock",
        "timeseries",
        "How much the clock of a replica is ahead of Prometheus' clock; a scrape's own duration is in it.",
        (
            (
                f"scheduler_clock_timestamp_seconds{{{_POD}}} - timestamp(scheduler_clock_timestamp_seconds{{{_POD}}})",
                "{{instance}}",
            ),
        ),
        "s",
    ),
]

STORAGE = [
    Panel(
        "Requests",
        "timeseries",
        "Requests to etcd by operation.",
        ((_rate("scheduler_etcd_requests_total", "operation"), "{{operation}}"),),
        "reqps",
    ),
    Panel(
        "Results",
        "timeseries",
        "By result; all but ok are failures, or of unknown fate.",
        ((_rate("scheduler_etcd_requests_total", "result"), "{{result}}"),),
        "reqps",
    ),
    Panel(
        "Duration, p99",
        "timeseries",
        "Of requests that etcd answered.",
        ((_quantile(0.99, "scheduler_etcd_request_duration_seconds", "operation"), "{{operation}}"),),
        "s",
    ),
    Panel(
        "Commits, p99",
        "timeseries",
        "One commit of progress.",
        ((_quantile(0.99, "scheduler_commit_duration_seconds"), "p99"),),
        "s",
    ),
    Panel(
        "Commits and what became of them",
        "timeseries",
        "Retried commits lost their answer; fenced ones lost their claim.",
        (
            (f"sum(rate(scheduler_commits_total{{{US}}}[$__rate_interval]))", "commits"),
            (f"sum(rate(scheduler_commit_retries_total{{{US}}}[$__rate_interval]))", "sent again"),
            (f"sum(rate(scheduler_fenced_writes_total{{{US}}}[$__rate_interval]))", "fenced"),
            (f"sum(rate(scheduler_checkpoints_total{{{US}}}[$__rate_interval]))", "journals folded"),
        ),
        "ops",
    ),
    Panel(
        "Partitions read again",
        "timeseries",
        "After a watch was lost.",
        ((f"sum(increase(scheduler_partition_resyncs_total{{{US}}}[$__rate_interval]))", "read again"),),
    ),
    Panel(
        "Database",
        "timeseries",
        "Size of etcd's file, what of it is in use, and the quota.",
        (
            ("etcd_mvcc_db_total_size_in_bytes", "{{instance}} file"),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "{{instance}} in use"),
            ("max(etcd_server_quota_backend_bytes)", "quota"),
        ),
        "bytes",
    ),
    Panel(
        "Disk, p99",
        "timeseries",
        "fsync of the log should be below 10 ms, commit of the file below 25 ms.",
        (
            (
                "histogram_quantile(0.99, sum by (instance, le) (rate(etcd_disk_wal_fsync_duration_seconds_bucket[$__rate_interval])))",
                "{{instance}} fsync",
            ),
            (
                "histogram_quantile(0.99, sum by (instance, le) (rate(etcd_disk_backend_commit_duration_seconds_bucket[$__rate_interval])))",
                "{{instance}} commit",
            ),
        ),
        "s",
    ),
    Panel(
        "Leader",
        "timeseries",
        "Members with a leader, and changes of leader seen.",
        (
            ("etcd_server_has_leader", "{{instance}} has leader"),
            ("etcd_server_leader_changes_seen_total", "{{instance}} changes"),
        ),
    ),
    Panel(
        "Watches",
        "timeseries",
        "Since etcd last said how far the watches are; it is asked every five seconds.",
        ((f"scheduler_etcd_watch_lag_seconds{{{US}}}", "{{instance}}"),),
        "s",
    ),
    Panel(
        "Conflicts",
        "timeseries",
        "Transactions whose condition did not hold: registrations and fences.",
        ((f"sum by (instance) (rate(scheduler_etcd_txn_conflicts_total{{{US}}}[$__rate_interval]))", "{{instance}}"),),
        "ops",
    ),
    Panel("Keys", "timeseries", "All keys of etcd.", (("etcd_debugging_mvcc_keys_total", "{{instance}}"),)),
]

_TENANT = US + ', app_namespace=~"$app_namespace"'

TENANTS = [
    Panel(
        "Triggers",
        "timeseries",
        "First deliveries by namespace, the ten busiest.",
        ((f"topk(10, {_rate(LATE + '_count', 'app_namespace', where=_TENANT)})", "{{app_namespace}}"),),
        "ops",
    ),
    Panel(
        "Lateness, p99",
        "timeseries",
        "By namespace.",
        ((_quantile(0.99, LATE, "app_namespace", _TENANT), "{{app_namespace}}"),),
        "s",
    ),
    Panel(
        "Waiting",
        "timeseries",
        "Due jobs that wait for a stream, the ten longest queues.",
        (
            (
                f"topk(10, sum by (app_namespace) (scheduler_namespace_triggers_waiting{{{_TENANT}}}))",
                "{{app_namespace}}",
            ),
        ),
    ),
    Panel(
        "Streams",
        "timeseries",
        "Connected WatchJobs streams.",
        ((f"sum by (app_namespace) (scheduler_namespace_watch_streams{{{_TENANT}}})", "{{app_namespace}}"),),
    ),
    Panel(
        "Jobs",
        "timeseries",
        "Jobs of the namespaces that have most of them.",
        ((f"topk(10, sum by (app_namespace) (scheduler_namespace_jobs{{{_TENANT}}}))", "{{app_namespace}}"),),
    ),
    Panel(
        "Answers, p99",
        "timeseries",
        "How long apps take, for jobs and for reminders of actors.",
        ((_quantile(0.99, "scheduler_trigger_ack_duration_seconds", "type"), "{{type}}"),),
        "s",
    ),
    Panel(
        "Within the second",
        "table",
        "Share of triggers that were at most a second late, over the range shown.",
        (
            (
                (
                    f'sum by (app_namespace) (rate({LATE}_bucket{{{_TENANT}, le="1.0"}}[$__range]))'
                    f" / sum by (app_namespace) (rate({LATE}_count{{{_TENANT}}}[$__range]))"
                ),
                "",
            ),
        ),
        "percentunit",
    ),
]

HANDLED = "grpc_server_handled_total"
OUR_FAULT = 'grpc_code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED"'
API = [
    Panel(
        "Calls",
        "timeseries",
        "Calls that ended, by method.",
        ((_rate("grpc_server_handled_total", "grpc_method"), "{{grpc_method}}"),),
        "reqps",
    ),
    Panel(
        "Statuses",
        "timeseries",
        "By status.",
        ((_rate("grpc_server_handled_total", "grpc_code"), "{{grpc_code}}"),),
        "reqps",
    ),
    Panel(
        "Errors",
        "timeseries",
        "Share of calls that ended with our fault: INTERNAL, UNKNOWN, UNAVAILABLE, DEADLINE_EXCEEDED.",
        (
            (
                f"({_rate(HANDLED, 'grpc_method', OUR_FAULT)} or 0 * {_rate(HANDLED, 'grpc_method')}) / {_rate(HANDLED, 'grpc_method')}",
                "{{grpc_method}}",
            ),
        ),
        "percentunit",
    ),
    Panel(
        "Duration, p50 and p99",
        "timeseries",
        "Of unary calls that were answered without error.",
        (
            (_quantile(0.5, "grpc_server_handling_seconds", "grpc_method"), "{{grpc_method}} p50"),
            (_quantile(0.99, "grpc_server_handling_seconds", "grpc_method"), "{{grpc_method}} p99"),
        ),
        "s",
    ),
    Panel(
        "Jobs",
        "timeseries",
        "Accepted, refused and deleted.",
        (
            (f"sum(rate(scheduler_jobs_created_total{{{US}}}[$__rate_interval]))", "accepted"),
            (f"sum(rate(scheduler_jobs_refused_total{{{US}}}[$__rate_interval]))", "refused"),
            (f"sum(rate(scheduler_jobs_deleted_total{{{US}}}[$__rate_interval]))", "deleted"),
        ),
        "ops",
    ),
    Panel(
        "Streams opened",
        "timeseries",
        "WatchJobs streams taken in: many mean that sidecars reconnect.",
        ((f"sum(rate(scheduler_watch_streams_opened_total{{{US}}}[$__rate_interval]))", "opened"),),
        "ops",
    ),
    Panel(
        "Streams ended",
        "timeseries",
        "WatchJobs streams that ended, by status: CANCELLED by their sidecar, UNAVAILABLE with their connection or our shutdown.",
        ((_rate("scheduler_watch_stream_disconnects_total", "code"), "{{code}}"),),
        "ops",
    ),
    Panel(
        "Streams held up",
        "timeseries",
        "How many streams take no triggers because their readers do not keep up, on average.",
        ((f"sum(rate(scheduler_watch_stream_blocked_seconds_total{{{US}}}[$__rate_interval]))", "streams"),),
    ),
]
