"""The sidecar's metrics, by the reference's names (sidecar-and-jobs-api.md 3.6), and the counters behind them."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.exposition import Histogram
from scheduler.metrics import DURATION_BOUNDS_S, ProcessStatistics


class SidecarStatistics:
    """Counted by a sidecar: what its app answered."""

    __slots__ = ("failed", "failed_seconds", "succeeded", "succeeded_seconds")

    def __init__(self) -> None:
        """All zero."""
        self.succeeded = self.failed = 0
        self.succeeded_seconds, self.failed_seconds = Histogram(DURATION_BOUNDS_S), Histogram(DURATION_BOUNDS_S)

    def answered(self, seconds: float, *, succeeded: bool) -> None:
        """The app has answered a trigger."""
        if succeeded:
            self.succeeded += 1
            self.succeeded_seconds.observe(seconds)
        else:
            self.failed += 1
            self.failed_seconds.observe(seconds)


class SidecarCollector(Collector):
    """The sidecar's metrics, whose names do not end in _total as a counter's would."""

    def __init__(
        self,
        statistics: SidecarStatistics,
        process: ProcessStatistics,
        *,
        app_id: str,
        namespace: str,
        in_flight: Callable[[], int],
    ) -> None:
        """`namespace` as the environment has it: empty where it has none."""
        self._statistics = statistics
        self._process = process
        self._labels = {"app_id": app_id, "namespace": namespace, "operation": "job_trigger_op"}
        self._in_flight = in_flight

    def collect(self) -> Iterator[Metric]:
        """Called at each scrape."""
        statistics, labels = self._statistics, self._labels
        for name, text, count in (
            ("dapr_component_job_success_count", "Triggers that the app took.", statistics.succeeded),
            ("dapr_component_job_failure_count", "Triggers that the app failed.", statistics.failed),
        ):
            counter = Metric(name, text, "unknown")
            counter.add_sample(name, labels, float(count))
            yield counter
        latencies = HistogramMetricFamily(
            "dapr_component_job_latencies", "The app's answers, in milliseconds.", labels=[*labels, "success"]
        )
        for success, source in (("true", statistics.succeeded_seconds), ("false", statistics.failed_seconds)):
            buckets, total = source.milliseconds(DURATION_BOUNDS_S)
            latencies.add_metric([*labels.values(), success], buckets=buckets, sum_value=total)
        yield latencies
        gauge = GaugeMetricFamily(
            "scheduler_sidecar_triggers_in_flight", "Triggers that the app has.", labels=["app_id"]
        )
        gauge.add_metric([labels["app_id"]], float(self._in_flight()))
        yield gauge
        yield GaugeMetricFamily(
            "scheduler_config_reload_success",
            "Whether the file of settings could be taken over when it was last read.",
            float(self._process.settings_taken),
        )
        yield GaugeMetricFamily(
            "scheduler_config_reload_timestamp_seconds",
            "When settings were last taken over, at the start or by a reload.",
            self._process.settings_taken_s,
        )
