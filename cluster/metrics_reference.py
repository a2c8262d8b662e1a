"""The list of all metrics, from the page itself (``config/METRICS.md``)."""

from __future__ import annotations

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import Metrics
from cluster.reports import Numbers
from pyrtmp.counters import Counters

_ANY = {
    "reason": "why, as in the log line",
    "node": "`node.id`",
    "version": "",
    "python": "",
    "loop": "",
}
"""Labels whose values are not a fixed set."""


def reference() -> str:
    """Every metric with its type, its labels and what it says, as Markdown."""
    numbers = Numbers(counters=Counters(refused=Counter(chunk=0)))
    page = Metrics(version="", node="").page([numbers], ready=True, registry_up=True, certificate_expires=0.0).decode()
    lines = [
        "# Metrics",
        "",
        "Written by `make reference` from the metrics page itself: `GET /metrics` at `api.listen`, with `api.token`",
        "where one is set.",
        "",
        "All are about the node as a whole, however many processes it has; totals go on when a worker is replaced. No",
        "stream, client or address is ever a label: for those there are `/api/v1/streams` and `/api/v1/clients`. What",
        "a node does not have is 0; only `pyrtmp_registry_up` is left out without `registry.url`, and",
        "`pyrtmp_tls_certificate_expiry_timestamp_seconds` without `tls.certificate`. A histogram has `_bucket`,",
        "`_count` and `_sum`.",
        "",
        "[prometheus.yml](prometheus.yml) scrapes them, [alerts.yml](alerts.yml) says when to wake somebody, and",
        "[grafana.json](grafana.json) draws them.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for family in text_string_to_metric_families(page):
        labels: dict[str, list[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if value not in labels.setdefault(label, []):
                    labels[label].append(value)
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        told = "; ".join(filter(None, (_label(label, values) for label, values in labels.items())))
        lines.append(f"| `{name}` | {family.type} | {told} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def _label(label: str, values: list[str]) -> str:
    if label == "le":
        return ""  # a histogram's own
    if label in _ANY:
        return f"`{label}`" + (f": {_ANY[label]}" if _ANY[label] else "")
    return f"`{label}`: {', '.join(values)}"
