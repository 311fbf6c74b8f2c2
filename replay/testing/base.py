"""The life of a machine's store and projections: opened, closed, crashed, and compared with a model.

`replay.testing.machine` adds the rules.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine

from eventstore import AsofError, EventStore, HashingEmbedder, Operation
from eventstore.testing import ManualClock, ModelEvent, ModelStore
from eventstore.testing.model import CONTEXT, json_of
from projections import CheckpointWarning, VectorIndex

__all__ = ["MachineBase"]

# In memory where the system has such a place: thousands of databases are opened, closed and thrown away.
_SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None

_COMPARED = ("position", "memory_id", "version", "prev_seq", "type", "recorded_at", "content", "embedding")


class MachineBase(RuleBasedStateMachine):
    """What `MemoryMachine` is without its rules."""

    dim = 8
    ids: tuple[str, ...] = ("a", "b", "c", "d")

    def __init__(self) -> None:
        super().__init__()
        self._ignoring: warnings.catch_warnings[None] | None = None
        self._folders: list[Path] = []
        self.folder = self._new_folder()
        self.clock = ManualClock()
        self.model: ModelStore = ModelStore(embed=lambda texts: self.store.embed(texts))
        self.answered: dict[datetime, int] = {}
        self.asked: dict[int, Operation] = {}
        self.store: Any = None
        self.projections: list[Any] = []
        try:
            self._open()
        except BaseException:
            self.teardown()
            raise

    # To be overridden

    def open_store(self) -> Any:
        """Open the store, by default an `EventStore` in `self.folder`. Called again after each close and crash."""
        return EventStore(
            self.folder / "memory.db", embedder=HashingEmbedder(self.dim), clock=self.clock, durability="normal"
        )

    def open_projections(self) -> Sequence[Any]:
        """Open the projections of `self.store`, by default one `VectorIndex` in small segments."""
        return [VectorIndex(self.store, segment_rows=4)]

    def opened(self) -> None:
        """Called when store and projections were opened, again after each close and crash: the place for what
        the application makes of them."""

    def crashed(self) -> None:
        """Make of `self.folder` what a crash would leave: by default a copy of it as it is, nothing closed.

        Called while everything is open. A store that is kept elsewhere has to override it.
        """
        left = self._new_folder()
        shutil.copytree(self.folder, left, dirs_exist_ok=True)
        self.folder = left

    # Life and death

    def _new_folder(self) -> Path:
        self._folders.append(Path(tempfile.mkdtemp(prefix="asof-machine-", dir=_SCRATCH)))
        return self._folders[-1]

    def _open(self) -> None:
        self.store = self.open_store()
        self.projections = list(self.open_projections())
        # What was answered past the head holds for as long as the store is open: it is not on disk.
        head = self.model.events[-1].recorded_at if self.model.events else None
        self.answered = {at: position for at, position in self.answered.items() if head is not None and at <= head}
        self.opened()

    def _close(self) -> None:
        # The store first: an index that finds it closed lets go without a checkpoint, as when a process ends.
        for each in [self.store, *self.projections]:
            if hasattr(each, "close"):
                each.close()

    def teardown(self) -> None:
        """Close everything and remove the folder."""
        if self.store is not None:
            self._close()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        if self._ignoring is not None:
            self._ignoring.__exit__(None, None, None)
            self._ignoring = None

    def _expect_warnings(self) -> None:
        """From now on files of the projections are damaged or gone, and whoever finds it out warns of it."""
        if self._ignoring is None:
            self._ignoring = warnings.catch_warnings()
            self._ignoring.__enter__()
            warnings.simplefilter("ignore", CheckpointWarning)

    # What the model learns

    def sync(self) -> list[ModelEvent]:
        """Let the model take what was recorded since; checks that it follows on what was there. The new events."""
        return [self.model.observe(event) for event in self.store.events(after=self.model.position)]

    def refused(self, error: type[BaseException], call: Callable[[], object]) -> None:
        """Assert that a call raises an error of asof's and records nothing."""
        before = self.store.head
        with pytest.raises(error) as raised:
            call()
        assert isinstance(raised.value, AsofError), f"{raised.value!r} is no AsofError"
        assert self.store.head == before, f"a refused operation moved the head from {before} to {self.store.head}"

    def record(self, some: Sequence[Any]) -> list[ModelEvent]:
        """Append valid operations, and compare what was recorded with what was asked for."""
        events = self.store.append(some)
        expected = self.model.append(some, events[0].recorded_at)
        for operation, event, asked in zip(some, events, expected, strict=True):
            for name in (*_COMPARED, *CONTEXT, "occurred_at"):
                found, right = getattr(event, name), getattr(asked, name)
                assert found == right, f"event {event.position} has {name} {found!r}; asked for was {right!r}"
            assert json_of(event.metadata) == json_of(asked.metadata)
            self.model.events[asked.position - 1] = replace(asked, event_id=event.event_id)
            self.asked[asked.position] = operation
        for asked in {each.memory_id: each for each in expected}.values():
            self._read_back(asked)
        return expected

    def _read_back(self, last: ModelEvent) -> None:
        """Assert that a memory is what its last event made it, and that its history ends with that event."""
        found = self.store.get(last.memory_id)
        if last.type == "DELETE":
            assert found is None, f"{last.memory_id!r} was deleted, and get() gives {found!r}"
        else:
            state = (last.version, last.content, json_of(last.metadata))
            assert (found.version, found.content, json_of(found.metadata)) == state
        record = self.store.history(last.memory_id)[-1]
        change = (last.position, last.type, last.before, last.content)
        assert (record.position, record.event, record.old_memory, record.new_memory) == change
