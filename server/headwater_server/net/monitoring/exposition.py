"""The metrics as text: samples as families of prometheus_client, and its text formats."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from headwater_server.net.histograms import Histogram
from headwater_server.net.monitoring.catalogue import METRICS, PREFIX, Kind
from headwater_server.net.monitoring.http import Response
from headwater_server.net.monitoring.samples import Sample

_NS_PER_S: Final = 1_000_000_000

SCRAPE_AGE_S_MAX: Final = 1.0
"""Seconds for which a scrape is served again. Collecting runs in the event loop, so the number of
scrapers must not decide how often."""


_FORMATS_KEPT_MAX: Final = 4
"""Texts that are kept. There are few formats, but the header may ask for many versions of one."""


class SampleCollector(Collector):
    """Makes families of metrics of samples."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def describe(self) -> Iterable[Metric]:
        """No names: they would be collected before there is anything to collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families that have samples, in the order of the catalogue."""
        found: dict[str, list[Sample]] = {name: [] for name in METRICS}
        for sample in self._samples():
            found[sample[0]].append(sample)
        for name, samples in found.items():
            if samples:
                yield _family(name, samples)


def _family(name: str, samples: list[Sample]) -> Metric:
    metric = METRICS[name]
    full = PREFIX + name
    family: Metric
    match metric.kind:
        case Kind.HISTOGRAM:
            # Durations are counted in nanoseconds and told in seconds.
            scale = _NS_PER_S if name.endswith("_seconds") else 1
            histograms = HistogramMetricFamily(full, metric.what, labels=metric.labels)
            for _, labels, histogram in samples:
                assert isinstance(histogram, Histogram)
                rows = [(str(bound / scale), count) for bound, count in histogram.cumulative()]
                rows.append(("+Inf", histogram.count))
                histograms.add_metric(labels, rows, histogram.sum / scale)
            family = histograms
        case Kind.COUNTER:
            counters = CounterMetricFamily(full, metric.what, labels=metric.labels)
            for _, labels, value in samples:
                assert not isinstance(value, Histogram)
                counters.add_metric(labels, float(value))
            family = counters
        case Kind.GAUGE:
            gauges = GaugeMetricFamily(full, metric.what, labels=metric.labels)
            for _, labels, value in samples:
                assert not isinstance(value, Histogram)
                gauges.add_metric(labels, float(value))
            family = gauges
    return family


class Scrapes:
    """Makes the page of metrics. A page is served again while it is new."""

    def __init__(
        self, samples: Callable[[], Iterable[Sample]], monotonic: Callable[[], float]
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(SampleCollector(samples))
        ProcessCollector(registry=self._registry)
        self._monotonic = monotonic
        self._made: dict[str, tuple[float, bytes]] = {}

    def page(self, accept: str) -> Response:
        """All metrics, in the format that the Accept header asks for."""
        encoder, content_type = choose_encoder(accept)
        now = self._monotonic()
        made = self._made.get(content_type)
        if made is None or now - made[0] > SCRAPE_AGE_S_MAX:
            if len(self._made) >= _FORMATS_KEPT_MAX:
                self._made.clear()
            made = self._made[content_type] = (now, encoder(self._registry))
        return Response(200, content_type, made[1])
