"""Metrics: everything KAT counts, in one list; Prometheus reads it at ``/metrics``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""Media type of :meth:`Metrics.render`."""

_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its name, kind, labels and meaning. Names never change their meaning."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _FAST


SPECS: Final = (
    Spec("kat_api_requests_total", "counter", "Requests answered by the API.", ("method", "resource", "status")),
    Spec("kat_api_request_seconds", "histogram", "Time from request to answer, streams left out.", ("method",)),
    Spec("kat_api_streams", "gauge", "Streams open now: watches, node views, logs, exec.", ("kind",)),
    Spec("kat_api_denied_total", "counter", "Requests refused for who the caller is.", ("code",)),
    Spec("kat_api_handshake_failures_total", "counter", "TLS handshakes that failed."),
    Spec("kat_audit_records_total", "counter", "Mutations asked for, by decision.", ("decision",)),
    Spec("kat_events_recorded_total", "counter", "Events recorded.", ("type",)),
    Spec("kat_events_dropped_total", "counter", "Events not recorded, because one object had too many."),
    Spec("kat_store_seconds", "histogram", "Time of a store operation.", ("operation",)),
    Spec("kat_store_errors_total", "counter", "Store operations that failed.", ("operation", "code")),
    Spec("kat_store_size_bytes", "gauge", "Size of the store."),
    Spec("kat_store_restarts_total", "counter", "Times the store's process was started again."),
    Spec("kat_leader", "gauge", "1 on the leader, 0 elsewhere."),
    Spec("kat_leader_elections_total", "counter", "Times this node became leader."),
    Spec("kat_leader_round_seconds", "histogram", "Time of one round of the controllers."),
    Spec("kat_leader_changes_total", "counter", "Changes the leader has committed.", ("change",)),
    Spec("kat_leader_conflicts_total", "counter", "Commits that lost against another writer."),
    Spec("kat_backup_good_seconds", "gauge", "When the newest backup was last found to hold the state (Unix time)."),
    Spec("kat_backup_failures_total", "counter", "Backups of the leader that failed."),
    Spec("kat_scheduler_seconds", "histogram", "Time of one batch in the scheduler."),
    Spec("kat_scheduler_placed_total", "counter", "Instances given a node."),
    Spec("kat_scheduler_unplaceable", "gauge", "Instances no node takes now."),
    Spec("kat_agent_instances", "gauge", "Instances of this node by phase.", ("phase",)),
    Spec("kat_agent_step_seconds", "histogram", "Time of one step towards an instance.", ("step",), _SLOW),
    Spec("kat_agent_step_failures_total", "counter", "Steps that failed.", ("step",)),
    Spec("kat_agent_restarts_total", "counter", "Containers started again by their restart policy."),
    Spec("kat_agent_probe_failures_total", "counter", "Health checks that failed.", ("check",)),
    Spec("kat_agent_detached", "gauge", "1 while this node cannot reach the API."),
    Spec("kat_dns_queries_total", "counter", "Questions answered by the node's DNS.", ("rcode",)),
    Spec("kat_dns_upstream_failures_total", "counter", "Questions no upstream server answered."),
)
"""Every metric there is. ``docs/api.md`` lists them too, and a test compares."""


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for spec in SPECS:
            if spec.kind == "counter":
                self._counters[spec.name] = Counter(spec.name, spec.help, spec.labels, registry=self.registry)
            elif spec.kind == "gauge":
                self._gauges[spec.name] = Gauge(spec.name, spec.help, spec.labels, registry=self.registry)
            else:
                self._histograms[spec.name] = Histogram(
                    spec.name, spec.help, spec.labels, registry=self.registry, buckets=spec.buckets
                )

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter; the labels in the order of :data:`SPECS`. An unknown name is a ``KeyError``."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(by)

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def move(self, name: str, by: float, *labels: str) -> None:
        """Raise or lower a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).inc(by)

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Note a duration."""
        histogram = self._histograms[name]
        (histogram.labels(*labels) if labels else histogram).observe(seconds)

    def render(self) -> bytes:
        """Give everything in Prometheus' text format."""
        return generate_latest(self.registry)
