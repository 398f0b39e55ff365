"""Which format a scraper gets, from its headers (RFC 9110, section 12.5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Format = Literal["protobuf", "openmetrics", "text"]

CONTENT_TYPES: dict[Format, str] = {
    "protobuf": (
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
    ),
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "text": "text/plain; version=0.0.4; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class _Range:
    """One of the things that a header admits."""

    name: str
    parameters: dict[str, str]
    weight: float


def chosen(accept: str) -> Format:
    """What the header `Accept` prefers, of equals what it names first; text for `*/*` and where it admits none.

    Text, because whoever writes `*/*` is a person with curl.
    """
    best: Format = "text"
    weight = 0.0
    for one in _ranges(accept):
        found = _format(one)
        if found is not None and one.weight > weight:
            best, weight = found, one.weight
    return best


def _format(one: _Range) -> Format | None:
    match one.name:
        case "application/vnd.google.protobuf":
            named = one.parameters.get("proto"), one.parameters.get("encoding")
            return "protobuf" if named == ("io.prometheus.client.metricfamily", "delimited") else None
        case "application/openmetrics-text":
            return "openmetrics" if one.parameters.get("version", "1.0.0") == "1.0.0" else None
        case "text/plain":
            return "text" if one.parameters.get("version", "0.0.4") == "0.0.4" else None
        case "*/*" | "text/*":
            return "text"
    return None


def gzipped(accept_encoding: str) -> bool:
    """Whether the header `Accept-Encoding` admits gzip: by name, or else by `*`."""
    weights = {one.name: one.weight for one in _ranges(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _ranges(header: str) -> Iterator[_Range]:
    for part in header.lower().split(","):
        name, *parameters = [piece.strip() for piece in part.split(";")]
        pairs = {
            key.strip(): value.strip(' "') for key, _, value in (one.partition("=") for one in parameters)
        }
        try:
            weight = float(pairs.pop("q", "1"))
        except ValueError:
            weight = 0.0
        yield _Range(name, pairs, weight)
