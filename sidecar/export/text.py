"""Prometheus' text format 0.0.4 and OpenMetrics 1.0, in pieces.

Formats: prometheus.io/docs/instrumenting/exposition_formats and prometheus.io/docs/specs/om/open_metrics_spec.
Native histograms have no place in either; their classic buckets do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric as Family
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

SAMPLES_A_PIECE = 100


def text(families: Iterable[Family]) -> Iterator[bytes]:
    """Text 0.0.4, a piece for every hundred series or so."""
    for family in families:
        total = "_total" if family.type == "counter" else ""
        kind = "untyped" if family.type == "unknown" else family.type
        yield _head(family.name + total, kind, _escaped(family.documentation))
        yield from _samples(family.samples, exemplars=False)


def openmetrics(families: Iterable[Family]) -> Iterator[bytes]:
    """OpenMetrics 1.0. A histogram with buckets below 0 has no sum there and therefore no count either."""
    for family in families:
        yield _head(family.name, family.type, _escaped(family.documentation, '"'))
        samples = family.samples
        if family.type == "histogram" and any("-" in one.labels.get("le", "")[:1] for one in samples):
            samples = [one for one in samples if "le" in one.labels]
        yield from _samples(samples, exemplars=True)
    yield b"# EOF\n"


def _head(name: str, kind: str, help: str) -> bytes:
    return f"# HELP {name} {help}\n# TYPE {name} {kind}\n".encode()


def _samples(samples: list[Sample], *, exemplars: bool) -> Iterator[bytes]:
    lines = []
    for sample in samples:
        if sample.native_histogram is not None:
            continue
        line = f"{sample.name}{_braces(sample.labels)} {floatToGoString(sample.value)}"  # type: ignore[no-untyped-call]
        if exemplars and sample.exemplar is not None:
            line += _exemplar(sample.exemplar)
        lines.append(line + "\n")
        if len(lines) == SAMPLES_A_PIECE:
            yield "".join(lines).encode()
            lines = []
    yield "".join(lines).encode()


def _braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return (
        "{"
        + ",".join([f'{name}="{_escaped(value, chr(34))}"' for name, value in sorted(labels.items())])
        + "}"
    )


def _exemplar(exemplar: Exemplar) -> str:
    value = floatToGoString(exemplar.value)  # type: ignore[no-untyped-call]
    at = f" {exemplar.timestamp}" if exemplar.timestamp is not None else ""
    return f" # {_braces(exemplar.labels) or '{}'} {value}{at}"


def _escaped(text: str, quote: str = "") -> str:
    if "\\" in text or "\n" in text or (quote and quote in text):
        text = text.replace("\\", r"\\").replace("\n", r"\n")
        return text.replace(quote, "\\" + quote) if quote else text
    return text
