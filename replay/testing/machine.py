"""`MemoryMachine`: a state machine that drives a store and its projections through whatever may happen to them."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import replay
from eventstore import (
    AsofError,
    EventConflict,
    EventStore,
    HashingEmbedder,
    InvalidInstant,
    InvalidOperation,
    Operation,
    Update,
)
from eventstore.testing import (
    CheckedFilter,
    ManualClock,
    ModelEvent,
    ModelStore,
    Refused,
    filters,
    histories,
    instants,
    invalid_operations,
    jumps,
    operations,
    vectors,
)
from eventstore.testing.model import json_of
from projections import CheckpointWarning, VectorIndex, project
from projections.testing import Found, assert_consistent, brute_force_search
from projections.testing.search import assert_plausible

__all__ = ["MemoryMachine", "memory_machine"]

# In memory where the system has such a place: thousands of databases are opened, closed and thrown away.
_SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None

OpenStore = Callable[["MemoryMachine"], Any]
OpenProjection = Callable[["MemoryMachine"], Any]


def _now(strategy: Callable[[MemoryMachine], st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """A strategy that depends on where the machine is: so that a rule's arguments are values, printed as code."""
    return st.runner().flatmap(strategy)


def _batches(machine: MemoryMachine) -> st.SearchStrategy[Any]:
    ids = tuple(f"{name}{machine.model.position}" for name in "xy")
    return histories(1, 1, dim=machine.dim, ids=ids, text_only=True).map(lambda history: history[0])


def _filters(machine: MemoryMachine) -> st.SearchStrategy[CheckedFilter]:
    return filters([each.metadata or {} for each in machine.model.state().values()])


def _refused(machine: MemoryMachine) -> st.SearchStrategy[Refused]:
    return invalid_operations(machine.model.state(), dim=machine.dim if machine.model.events else None, ids=machine.ids)


@functools.lru_cache
def _cached_vectors(dim: int) -> st.SearchStrategy[list[float]]:
    return vectors(dim)


@functools.lru_cache
def _cached_lists(dim: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(vectors(dim), min_size=1, max_size=9)


_operation = _now(lambda machine: operations(machine.model.state(), dim=machine.dim, ids=machine.ids, text_only=True))
_vector = _now(lambda machine: _cached_vectors(machine.dim))
_vectors = _now(lambda machine: _cached_lists(machine.dim))
_moment = _now(lambda machine: instants(machine.store))


class MemoryMachine(RuleBasedStateMachine):
    """Drives a store, its projections and a model of both, in any order, and compares them after every step.

    Its rules: valid operations alone and in batches, many adds, deletes by filter, operations that must be refused,
    retries, a clock that jumps, instants asked for, searches as of any moment, checkpoint, reopen, crash, rebuild,
    restore, verify, and an index directory that is damaged or gone.

    Subclass it to test an application: override `open_store` and `open_projections`, make the application on
    `self.store` in `opened`, add rules and invariants of your own. The model learns by itself what your rules
    record. A rule that does not suit the application is left out by naming it: `restore = None`.

    Attributes:
        dim: the dimension of the vectors that are drawn.
        ids: the memory ids that operations are about; few, so that they meet.
        folder: an empty directory, this run's own. What is kept in it is what survives a crash.
        clock: a `ManualClock`; `open_store` gives it to the store.
        store, projections: what was opened.
        model: a `ModelStore` that has every event recorded so far.
    """

    dim = 8
    ids: tuple[str, ...] = ("a", "b", "c", "d")

    def __init__(self) -> None:
        super().__init__()
        self._folders: list[Path] = []
        self.folder = self._new_folder()
        self.clock = ManualClock()
        self.model: ModelStore = ModelStore(embed=lambda texts: self.store.embed(texts))
        self.answered: dict[datetime, int] = {}
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
        for number, (event, asked) in enumerate(zip(events, expected, strict=True)):
            for name in ("position", "memory_id", "version", "prev_seq", "type", "recorded_at", "content", "embedding"):
                found, right = getattr(event, name), getattr(asked, name)
                assert found == right, f"event {event.position} has {name} {found!r}; asked for was {right!r}"
            assert json_of(event.metadata) == json_of(asked.metadata)
            self.model.events[expected[number].position - 1] = replace(asked, event_id=event.event_id)
        return expected

    # Operations

    @rule(operation=_operation)
    def append(self, operation: Operation) -> None:
        """One valid operation."""
        self.record([operation])

    @rule(operations=_now(_batches))
    def append_many(self, operations: list[Operation]) -> None:
        """An append that builds on itself, on two memories that are its own."""
        self.record(operations)

    @rule(vectors=_vectors)
    def add_many(self, vectors: list[list[float]]) -> None:
        """Many memories at once, which get ids of their own."""
        events = self.store.add_many([f"text {number}" for number in range(len(vectors))], vectors=vectors)
        assert [event.vector.tolist() for event in events] == vectors
        assert list(self.store.events(after=self.model.position)) == list(events)
        self.sync()

    @rule(chosen=_now(_filters))
    def delete_where(self, chosen: CheckedFilter) -> None:
        """Everything that matches a filter ends; without a filter that is refused."""
        if chosen.everything:
            self.refused(InvalidOperation, lambda: self.store.delete_where(chosen.filter))
            return
        state = self.model.state()
        doomed = [memory_id for memory_id, each in state.items() if chosen.matches(each.metadata or {})]
        events = self.store.delete_where(chosen.filter)
        assert [(event.type, event.memory_id) for event in events] == [("DELETE", name) for name in doomed]
        self.sync()

    # What must fail, and what is tried again

    @rule(refused=_now(_refused), after=st.booleans())
    def refuse(self, refused: Refused, after: bool) -> None:
        """An invalid operation raises its error, alone or after valid ones, and nothing is recorded."""
        about = refused.operation.memory_id
        valid = [Update(memory_id=name, metadata={}) for name in self.model.state() if name != about] if after else []
        self.refused(refused.error, lambda: self.store.append([*valid[:2], refused.operation]))

    @precondition(lambda self: self.model.events)
    @rule(position=_now(lambda machine: st.integers(1, machine.model.position)))
    def retry(self, position: int) -> None:
        """A deletion tried again under its event_id is recorded once; the id with something else is refused."""
        event = self.model.events[position - 1]
        self.refused(EventConflict, lambda: self.store.delete("never added", event_id=event.event_id))
        if event.type == "DELETE":
            said = {name: getattr(event, name) for name in ("actor_id", "role", "reason", "correlation_id")}
            again = self.store.delete(event.memory_id, event_id=event.event_id, causation_id=event.causation_id, **said)
            assert again.position == position, f"a retry was recorded again, at {again.position}"

    # Time

    @rule(step=jumps())
    def clock_jumps(self, step: timedelta) -> None:
        """The clock is set forward or back."""
        self.clock.now += step

    @rule(step=jumps())
    def ask_an_instant(self, step: timedelta) -> None:
        """What an instant means never changes once it has been answered."""
        instant = self.clock.now + step
        try:
            position = self.store.position_at(instant)
        except InvalidInstant:
            head = self.store.head.recorded_at
            assert instant > self.clock.now, f"{instant} has passed by the clock and is refused"
            assert head is None or instant > head, f"{instant} is not later than the head and is refused"
            assert instant not in self.answered, f"{instant} was answered before and is refused"
            return
        assert position == self.model.position_at(instant)
        self.answered[instant] = position

    # Reads of any moment

    @rule(as_of=_moment)
    def everything_agrees(self, as_of: datetime | int | None) -> None:
        """As of any moment store, projections and model say the same."""
        assert_consistent(self.store, *self.projections, as_of=as_of, model=self.model)

    @rule(
        query=_vector,
        k=st.sampled_from([1, 2, 3, 12]),
        as_of=_moment,
        chosen=_now(_filters),
        min_score=st.none() | st.just(0.25),
    )
    def search(
        self,
        query: list[float],
        k: int,
        as_of: datetime | int | None,
        chosen: CheckedFilter,
        min_score: float | None,
    ) -> None:
        """Each projection that can be searched finds what brute force finds, filtered, as of any moment.

        Hits that say they are not exact may lack some; those that there are have to be right.
        """
        position = self.store.position_at(as_of)
        for projection in self.projections:
            if not hasattr(projection, "search"):
                continue
            asked: dict[str, Any] = {"filter": chosen.filter, "min_score": min_score}
            hits = projection.search(query, k, as_of=as_of, **asked)
            exact = getattr(hits, "exact", True)
            expected = brute_force_search(
                self.model,
                query,
                k if exact else len(self.model.events),
                metric=getattr(projection, "metric", "cosine"),
                filter=chosen,
                as_of=position,
                min_score=min_score,
            )
            found = [Found(hit.memory_id, hit.score, hit.position) for hit in hits]
            if exact:
                assert found == expected, (
                    f"projection {projection.name!r} finds {found}; by brute force it is {expected}"
                )
            else:
                least = 0 if min_score is not None else min(k, len(expected))
                assert_plausible(f"projection {projection.name!r}", found, expected, least)
            assert projection.search(query, k, as_of=position, **asked) == hits

    # The projections' files, and the store's

    @rule()
    def checkpoint(self) -> None:
        """Projections that keep checkpoints write one."""
        for projection in self.projections:
            if hasattr(projection, "checkpoint"):
                projection.checkpoint()

    @rule()
    def reopen(self) -> None:
        """Everything is closed in good order, the projections first, and opened again."""
        for projection in self.projections:
            if hasattr(projection, "close"):
                projection.close()
        self._close()
        self._open()

    @rule()
    def crash(self) -> None:
        """The process dies: nothing is closed, and what is opened next is what was on disk by then."""
        self.crashed()
        self._close()
        self._open()

    @rule()
    def rebuild(self) -> None:
        """Projections are thrown away and made again from the history."""
        for projection in self.projections:
            if hasattr(projection, "rebuild"):
                replay.rebuild(projection)
            else:
                projection.reset()
                project(projection, self.store)
            assert projection.position == self.model.position

    @rule(at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def damage_a_checkpoint(self, at: int, bit: int) -> None:
        """A bit of a projection's files flips, and they are opened again: nothing is lost, nothing is wrong."""
        files = self._projection_files()
        if files:
            path = files[at % len(files)]
            content = bytearray(path.read_bytes())
            if content:
                note(f"bit {bit} of byte {at % len(content)} of {path.name} flips")
                content[at % len(content)] ^= 1 << bit
                path.write_bytes(content)
            self._reopen_projections()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CheckpointWarning)
                for projection in self.projections:
                    # What is only read when it is needed may be damaged still: it is named here, once, and mended.
                    if hasattr(projection, "faults"):
                        projection.faults()

    @rule()
    def lose_the_checkpoints(self) -> None:
        """The files of the projections vanish, and those that are open go on."""
        for path in self._projection_files():
            path.unlink()

    def _projection_files(self) -> list[Path]:
        directories = [getattr(projection, "directory", None) for projection in self.projections]
        return sorted(
            path
            for directory in directories
            if directory is not None and os.path.isdir(directory)
            for path in Path(directory).rglob("*")
            if path.is_file()
        )

    def _reopen_projections(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            self.projections = list(self.open_projections())
        self.opened()

    # The past brought back

    @precondition(lambda self: self.model.events)
    @rule(as_of=_moment)
    def restore(self, as_of: datetime | int | None) -> None:
        """The present becomes the state of any moment, and the restore is undone by another."""
        then, start = self.model.state(self.store.position_at(as_of)), self.model.state()
        restored = replay.restore(self.store, as_of, reason="undo")
        self.sync()
        assert brought_back(self.model.state()) == brought_back(then)
        replay.restore(self.store, restored.position_before)
        self.sync()
        assert brought_back(self.model.state()) == brought_back(start)

    # What must hold after every step

    @rule()
    def verify(self) -> None:
        """The history and the projections find no fault with themselves, and all events are as they were."""
        assert_consistent(self.store, *self.projections, model=self.model)
        if isinstance(self.store, EventStore):
            report = replay.verify(self.store)
            assert report.ok, report.faults

    @invariant()
    def nothing_is_lost_or_added(self) -> None:
        """The head is the model's last event, and an instant that was answered means what it meant."""
        self.sync()
        assert self.store.position == self.model.position
        last = self.model.events[-1].recorded_at if self.model.events else None
        assert self.store.head.recorded_at == last
        for instant, position in list(self.answered.items())[-3:]:
            assert self.store.position_at(instant) == position


def memory_machine(open_store: OpenStore, *open_projections: OpenProjection) -> type[MemoryMachine]:
    """A `MemoryMachine` over a store and projections of one's own, without writing a subclass.

    Each factory is given the machine: `lambda machine: EventStore(machine.folder / "x.db", clock=machine.clock)`,
    `lambda machine: VectorIndex(machine.store)`. `TestCase` of the result is what pytest collects.
    """

    class Machine(MemoryMachine):
        def open_store(self) -> Any:
            return open_store(self)

        def open_projections(self) -> Sequence[Any]:
            return [open_one(self) for open_one in open_projections]

    return Machine


def brought_back(state: dict[str, ModelEvent]) -> dict[str, tuple[str | None, str, bytes | None]]:
    """What a restore brings back: not versions and times, which only go forward."""
    return {memory_id: (each.content, json_of(each.metadata), each.embedding) for memory_id, each in state.items()}
