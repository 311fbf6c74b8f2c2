"""Restore: the present becomes what it was, by appending."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Add, Delete, EventStore, InvalidInstant, InvalidOperation, Operation, ReadOnlyStore, Update
from eventstore.append import Recorded
from eventstore.operations import Prepared
from eventstore.writer import Transaction
from replay import Diff, diff, restore, verify
from tests.profiles import scaled
from tests.replay_support import folded_to, histories, summary, told

MODULE = import_module("replay.restore")  # the package's attribute of that name is the function


@given(histories(), st.data())
@settings(max_examples=scaled(100))
def test_a_restore_brings_back_what_was(appends: list[list[Operation]], data: st.DataObject) -> None:
    """Content, metadata and vectors bit for bit, in one append; and restoring what was before it undoes it."""
    with told(appends) as store:
        position, start = data.draw(st.integers(0, store.position)), store.position
        restored = restore(store, position)
        assert folded_to(store, store.position) == folded_to(store, position)
        assert diff(store, position, None).empty
        assert (restored.position_before, restored.position_after) == (start, store.position)
        assert list(restored.events) == list(store.events(after=start))
        assert len({event.recorded_at for event in restored.events}) <= 1
        undone = restore(store, restored.position_before)
        assert folded_to(store, store.position) == folded_to(store, start)
        assert len(undone.events) == len(restored.events)
        assert verify(store).faults == []


@given(histories(), st.data())
@settings(max_examples=scaled(50))
def test_a_restore_appends_what_differs_and_no_more(appends: list[list[Operation]], data: st.DataObject) -> None:
    """One event for each memory of the diff, and none where there is none; a dry run says the same."""
    with told(appends) as store:
        position, start = data.draw(st.integers(0, store.position)), store.position
        expected = diff(store, None, position)
        dry = restore(store, position, dry_run=True)
        assert (dry.diff, len(dry.events), dry.position_before, dry.position_after) == (expected, 0, start, start)
        assert store.position == start
        restored = restore(store, position)
        assert restored.diff == expected
        added, updated, deleted = summary(expected)
        assert sorted((event.type, event.memory_id) for event in restored.events) == sorted(
            [("ADD", each) for each in added]
            + [("UPDATE", each) for each in updated]
            + [("DELETE", each) for each in deleted]
        )


def test_the_events_say_why_and_by_whom() -> None:
    """And that they belong together, to a restore of that position."""
    with EventStore() as store:
        first = store.add("tea", vector=[1, 2], memory_id="a")
        store.update("a", "coffee", vector=[1, 3])
        [event] = restore(store, first.recorded_at, reason="it was wrong", actor_id="ann").events
        assert (event.reason, event.actor_id, event.correlation_id) == ("it was wrong", "ann", "restore:1")
        assert (event.type, event.content, event.version) == ("UPDATE", "tea", 3)


def test_states_come_back_in_the_order_in_which_they_arose() -> None:
    """So the order of positions, which breaks ties in a search, is that of before."""
    ids = ["d", "b", "a", "c"]
    with told([[Add(memory_id=each, content=each, vector=[1, 2])] for each in ids]) as store:
        store.append([Delete(memory_id="b"), Update(memory_id="d", content="x", vector=[1, 2]), Delete(memory_id="a")])
        store.update("c", "y", vector=[1, 2])
        restore(store, 4)
        assert [memory.memory_id for memory in store.memories()] == ids


def test_thousands_of_changes_are_one_append() -> None:
    """At one instant, however many they are."""
    with EventStore() as store:
        ids = [str(number) for number in range(2500)]
        store.add_many(ids, vectors=[[1, 2]] * 2500, memory_ids=ids)
        store.delete_where(everything=True)
        restored = restore(store, 2500)
        assert len(restored.events) == 2500
        assert len({event.recorded_at for event in restored.events}) == 1
        assert diff(store, 2500, None).empty


def test_vectors_of_zeros_come_back(tmp_path: Path) -> None:
    """What was taken once is taken again, though the store was opened without asking for it."""
    with EventStore(tmp_path / "a.db", allow_zero_vectors=True) as store:
        store.add("nothing", vector=[0, 0], memory_id="a")
        store.delete("a")
    with EventStore(tmp_path / "a.db") as store:
        restore(store, 1)
        assert diff(store, 1, None).empty


def test_what_others_append_meanwhile_is_undone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes between the comparison and the append: the comparison is made again."""
    with EventStore() as store:
        store.add("tea", vector=[1, 2], memory_id="a")
        store.delete("a")
        compared: list[Diff] = []

        def interrupted(*args: Any) -> Diff:
            compared.append(diff(*args))
            if len(compared) == 1:
                store.append([Add(memory_id="a", content="milk", vector=[5, 6]), Add(content="b", vector=[7, 8])])
            return compared[-1]

        monkeypatch.setattr(MODULE, "diff", interrupted)
        restored = restore(store, 1)
        assert len(compared) == 2
        assert (restored.position_before, restored.position_after) == (4, 6)
        assert restored.diff == compared[1]
        assert diff(store, 1, None).empty


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_restore_that_fails_appends_nothing(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    """All of it, or none: stopped after a thousand events have been written, it leaves none."""
    record, calls = Transaction.record, iter(range(9))

    def broken(self: Transaction, operations: Sequence[Prepared]) -> list[Recorded]:
        if next(calls) == 1:
            raise error
        return record(self, operations)

    with EventStore() as store:
        ids = [str(number) for number in range(2500)]
        store.add_many(ids, vectors=[[1, 2]] * 2500, memory_ids=ids)
        monkeypatch.setattr(Transaction, "record", broken)
        with pytest.raises(error):
            restore(store, 0)
        assert (store.position, store.count()) == (2500, 2500)
        monkeypatch.undo()
        assert len(restore(store, 0).events) == 2500


def test_a_store_that_can_only_be_read_is_not_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would do can be asked all the same."""
    path = tmp_path / "a.db"
    told([[Add(memory_id="a", content="tea", vector=[1, 2])], [Delete(memory_id="a")]], path).close()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    with EventStore(path) as store:
        assert summary(restore(store, 1, dry_run=True).diff) == (["a"], [], [])
        with pytest.raises(ReadOnlyStore):
            restore(store, 1)
        assert restore(store, None).position_after == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"as_of": 9}, InvalidInstant),
        ({"as_of": 0, "actor_id": ""}, InvalidOperation),
        ({"as_of": 0, "reason": 5}, InvalidOperation),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Before anything is appended, in a dry run too."""
    with told([[Add(memory_id="a", content="tea", vector=[1, 2])]]) as store:
        for dry_run in (True, False):
            with pytest.raises(error):
                restore(store, **arguments, dry_run=dry_run)
        assert store.position == 1
