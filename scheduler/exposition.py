"""How counters become Prometheus samples: histograms cheap enough for the hot path, samples that read them, the collector that asks at each scrape."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

# What pairs of counters are of.
TYPES = ("job", "actor")
# No namespace, app or actor type that Kubernetes would allow has this name.
OTHER = "_other"


class Histogram:
    """Counts per bucket, cheap enough for the hot path."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the buckets' upper ends in seconds, ascending."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        # The last one of each bucket, by its index; only where something is traced.
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def exemplify(self, value: float, trace_id: str, wall_s: float) -> None:
        """A value that was observed belongs to that trace: its bucket shows it, to whoever asks for OpenMetrics."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar({"trace_id": trace_id}, value, wall_s)

    def samples(self) -> "Buckets":
        """Cumulative buckets and the sum, as prometheus_client takes them."""
        labels = (*map(str, map(float, self.bounds)), "+Inf")
        counts = map(float, accumulate(self.counts))
        if not self.exemplars:
            return list(zip(labels, counts, strict=True)), self.total
        shown = self.exemplars.get
        return [
            (label, count, shown(at)) for at, (label, count) in enumerate(zip(labels, counts, strict=True))
        ], self.total

    def milliseconds(self, bounds_s: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
        """The same in milliseconds, with fewer buckets; `bounds_s` must be among our bounds."""
        counts = list(accumulate(self.counts))
        buckets = [(f"{bound * 1000:g}", float(counts[self.bounds.index(bound)])) for bound in bounds_s]
        return [*buckets, ("+Inf", float(counts[-1]))], self.total * 1000


Buckets = tuple[Sequence[tuple[str, float] | tuple[str, float, Exemplar | None]], float]
"""A histogram's cumulative buckets by upper end, some with an exemplar, and its sum."""


Labels = str | tuple[str, ...]
Table = Mapping[Any, float] | Mapping[Any, Buckets]
"""Values by label (`Labels`)."""


class Sample(NamedTuple):
    """One metric: kind is counter, gauge or histogram; values by label (without one, under an empty string; with several, under tuples)."""

    kind: str
    name: str
    text: str
    label: Labels
    read: Callable[[], Table]


def pair(values: list[int]) -> dict[str, float]:
    """(job, actor) by label."""
    return dict(zip(TYPES, map(float, values), strict=True))


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
            labels = _tuple(sample.label)
            family = _FAMILIES[sample.kind](sample.name, sample.text, labels=labels)
            for label, value in sample.read().items():
                shown = _tuple(label)
                if isinstance(value, tuple):
                    family.add_metric(shown, buckets=value[0], sum_value=value[1])
                else:
                    family.add_metric(shown, value)
            yield family


def merged(label: str, parts: Iterable[tuple[str, str]]) -> str:
    """Several processes' metrics in the text format as one: each sample gets a label that names its process, and families stay together."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for value, text in parts:
        told, samples = families.setdefault("", ([], []))
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                told, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
                if sum(one.startswith(line[:7]) for one in told) == 0:
                    told.append(line)
            elif line and not line.startswith("#"):
                name, brace, rest = line.partition("{")
                if brace and " " not in name:
                    samples.append(f'{name}{{{label}="{value}",{rest}')
                else:
                    name, _, rest = line.partition(" ")
                    samples.append(f'{name}{{{label}="{value}"}} {rest}')
    return "".join(f"{line}\n" for told, samples in families.values() for line in (*told, *samples))


def _tuple(labels: Labels) -> tuple[str, ...]:
    if isinstance(labels, tuple):
        return labels
    return (labels,) if labels else ()


def capped(values: Iterable[tuple[str, float]], most: int) -> dict[str, float]:
    """Sums by label; labels beyond the first `most` share OTHER, so that whoever chooses labels cannot make series without end."""
    totals: dict[str, float] = {}
    for name, value in values:
        label = name if len(totals) < most or name in totals else OTHER
        totals[label] = totals.get(label, 0) + value
    return totals
