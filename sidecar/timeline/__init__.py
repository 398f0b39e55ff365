"""Panes of sketches and the windows over them."""

from sidecar.timeline.timeline import MAX_ROWS, Timeline

__all__ = ["MAX_ROWS", "Timeline"]
