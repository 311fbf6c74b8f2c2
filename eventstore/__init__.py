"""asof's write side: an append-only, hash-chained history of memories in SQLite."""

from eventstore.embedders import Embedder, HashingEmbedder
from eventstore.errors import *  # noqa: F403
from eventstore.errors import __all__ as _errors
from eventstore.events import Event, EventType, Head, HistoryRecord, Memory, Vector
from eventstore.filters import parse_filter
from eventstore.operations import Add, Delete, Operation, Update
from eventstore.reading import AsOf, Filter
from eventstore.slices import EventRange
from eventstore.store import EventStore
from eventstore.transfer import ImportResult, read_json_lines

__all__ = [
    "Add",
    "AsOf",
    "Delete",
    "Embedder",
    "Event",
    "EventRange",
    "EventStore",
    "EventType",
    "Filter",
    "HashingEmbedder",
    "Head",
    "HistoryRecord",
    "ImportResult",
    "Memory",
    "Operation",
    "Update",
    "Vector",
    "parse_filter",
    "read_json_lines",
]
__all__ += _errors
