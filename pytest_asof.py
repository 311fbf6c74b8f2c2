"""asof's pytest plugin: the fixtures `event_store` and `vector_index`, and the option `--asof-profile`.

pytest imports it at the start of every run where asof is installed. So it stands outside the packages, whose import
takes half a second, and imports them, FAISS and Hypothesis only for who asks for a fixture or a profile.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from eventstore import EventStore
    from projections import VectorIndex

_PROFILES = ("ci", "dev", "long")

# So that a failing contract shows the values that it compared. Only names are noted; nothing is imported.
_WITH_ASSERTIONS = (
    "eventstore.testing.contract",
    "eventstore.testing.contract_reads",
    "projections.testing.contract",
    "projections.testing.contract_search",
    "replay.testing.base",
    "replay.testing.machine",
)
pytest.register_assert_rewrite(*(name for name in _WITH_ASSERTIONS if name not in sys.modules))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--asof-profile`."""
    parser.getgroup("asof").addoption(
        "--asof-profile",
        choices=_PROFILES,
        default=None,
        help="the Hypothesis profile: dev (100 examples), ci (prints how to reproduce a failure), "
        "long (twenty times the examples); the environment variable ASOF_PROFILE does the same",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile that was asked for, before any test is read."""
    name = config.getoption("--asof-profile") or os.environ.get("ASOF_PROFILE")
    if not name:
        return
    if name not in _PROFILES:
        raise pytest.UsageError(f"ASOF_PROFILE is {name!r}: give one of {', '.join(_PROFILES)}")
    try:
        from eventstore.testing import load_profile
    except ImportError as error:
        raise pytest.UsageError(str(error)) from None
    load_profile(name)


@pytest.fixture
def event_store_options() -> dict[str, Any]:
    """Keywords for the `EventStore` of the fixture `event_store`: override it to give others.

    By default a `HashingEmbedder`, so that text can be stored and searched, and no syncing to disk.
    """
    from eventstore import HashingEmbedder

    return {"embedder": HashingEmbedder(), "durability": "normal"}


@pytest.fixture
def event_store(tmp_path: Path, event_store_options: dict[str, Any]) -> Iterator[EventStore]:
    """An empty `EventStore` in a file of its own, closed after the test."""
    from eventstore import EventStore

    with EventStore(tmp_path / "memory.db", **event_store_options) as store:
        yield store


@pytest.fixture
def vector_index(event_store: EventStore) -> Iterator[VectorIndex]:
    """A `VectorIndex` over `event_store`, closed after the test."""
    from projections import VectorIndex

    with VectorIndex(event_store) as index:
        yield index
