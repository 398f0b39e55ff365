"""The trace that a client's request belongs to (W3C Trace Context, w3.org/TR/trace-context)."""

from __future__ import annotations

import re

from sidecar.server.status import Metadata
from sidecar.types import Trace

HEADER = "traceparent"

# A later version may append fields, the first has these four only.
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def trace_of(metadata: Metadata) -> Trace | None:
    """None where the client sent no trace, or nothing that is one: then it is as if it had sent none."""
    for key, value in metadata:
        if key == HEADER and isinstance(value, str) and (found := _FORM.fullmatch(value)):
            version, trace_id, span_id, flags, more = found.groups()
            if version != "00" or more is None:
                return Trace(trace_id, span_id, bool(int(flags, 16) & 1))
    return None
