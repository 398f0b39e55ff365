"""Panes of sketches, the windows over them, and the store that keeps them."""

from sidecar.timeline.history import History, Kept, Recall
from sidecar.timeline.keeper import Keeper, StoreStatus
from sidecar.timeline.schema import Subject
from sidecar.timeline.store import Retention, Store
from sidecar.timeline.strongest import Drivers, Strongest
from sidecar.timeline.timeline import MAX_ROWS, Pane, Timeline

__all__ = [
    "MAX_ROWS",
    "Drivers",
    "History",
    "Keeper",
    "Kept",
    "Pane",
    "Recall",
    "Retention",
    "Store",
    "StoreStatus",
    "Strongest",
    "Subject",
    "Timeline",
]
