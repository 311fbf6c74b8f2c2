"""The property-based test kit for histories: strategies, a model to compare with, a contract for stores.

Part of `asof[testing]`; `projections.testing` and `replay.testing` build on it. docs/reference/testing.md.
"""

try:
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"asof's test kit needs {error.name}, which is not installed: pip install 'asof[testing]'", name=error.name
    ) from error

from eventstore.testing.clocks import MICROSECOND, START, ManualClock, clocks, jumps
from eventstore.testing.contract import EventStoreContract
from eventstore.testing.filters import CheckedFilter, filters
from eventstore.testing.instants import instants
from eventstore.testing.model import ModelEvent, ModelStore
from eventstore.testing.operations import History, Refused, histories, invalid_operations, operations
from eventstore.testing.profiles import DEFAULT_EXAMPLES, load_profile, scaled
from eventstore.testing.values import contents, memory_ids, metadata, vectors

__all__ = [
    "DEFAULT_EXAMPLES",
    "MICROSECOND",
    "START",
    "CheckedFilter",
    "EventStoreContract",
    "History",
    "ManualClock",
    "ModelEvent",
    "ModelStore",
    "Refused",
    "clocks",
    "contents",
    "filters",
    "histories",
    "instants",
    "invalid_operations",
    "jumps",
    "load_profile",
    "memory_ids",
    "metadata",
    "operations",
    "scaled",
    "vectors",
]
