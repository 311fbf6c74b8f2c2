"""States that were read lately are kept, in bounded memory, and nobody can change them for the next who asks."""

from __future__ import annotations

import pytest

from eventstore import CorruptHistory, EventStore
from eventstore.connections import Connections
from eventstore.events import EventRow, metadata_of
from eventstore.instants import from_microseconds
from eventstore.states import LateStates, State


def _state(position: int, content: str = "") -> State:
    context = (None,) * 7
    row = (position, f"e{position}", f"m{position}", 1, None, position, position, "ADD", 0, *context, b"", b"")
    return State(EventRow._make(row), from_microseconds(0), None, content, "{}")


def test_what_is_asked_for_again_and_again_stays() -> None:
    """Of more states than there is room for, the one in use is there at the end, and the first ones are not."""
    late = LateStates(20_000)
    for position in range(1, 400):
        late.put(_state(position, "x" * 100))
        assert late.get(7) is None or late.get(7) == _state(7, "x" * 100)
        assert position < 7 or late.get(7) is not None
    assert late.get(1) is None
    assert late.get(399) == _state(399, "x" * 100)


def test_memory_is_bounded() -> None:
    """However many are put, what is kept stays below the room, and one that is larger than that is not kept."""
    late = LateStates(20_000)
    for position in range(1, 1000):
        late.put(_state(position, "x" * 1000))
    kept = [position for position in range(1, 1000) if late.get(position)]
    assert 1 <= len(kept) <= 20
    late.put(_state(1000, "x" * 20_000))
    assert late.get(1000) is None


def test_memory_is_bounded_for_any_text() -> None:
    """One character past the others makes all of a text take four times as much."""
    late = LateStates(400_000)
    for position in range(1, 1000):
        late.put(_state(position, "x" * 1000 + "\U0001f9ea"))
    assert len([position for position in range(1, 1000) if late.get(position)]) <= 400_000 // 4000


def test_a_caller_cannot_change_what_the_next_one_gets() -> None:
    """The metadata of a memory is the caller's own dict, also where the memory comes from what was kept."""
    with EventStore(":memory:", allow_zero_vectors=True) as store:
        added = store.add("tea", vector=[1.0, 0.0], metadata={"tags": ["a"]})
        for _ in range(3):
            memory = store.get(added.memory_id)
            assert memory is not None
            assert memory.metadata == {"tags": ["a"]}
            memory.metadata["tags"].append("b")
            memory.metadata["more"] = 1


def test_a_later_version_is_another_state() -> None:
    """After an update and a delete the older state is still that of its position, and the newer one of its own."""
    with EventStore(":memory:") as store:
        first = store.add("tea", vector=[1.0, 0.0])
        assert store.get(first.memory_id) is not None
        second = store.update(first.memory_id, "coffee", vector=[0.0, 1.0])
        now, then = store.get(first.memory_id), store.get(first.memory_id, as_of=first.position)
        assert now is not None
        assert then is not None
        assert (now.content, now.version, then.content, then.version) == ("coffee", 2, "tea", 1)
        assert now.updated_at == second.recorded_at
        store.delete(first.memory_id)
        assert store.get(first.memory_id) is None
        assert store.get(first.memory_id, as_of=second.position) == now


def test_what_was_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not kept is asked of the file, whatever else is asked for beside it, in whatever order."""
    asked: list[int] = []
    fetch = Connections.fetch
    monkeypatch.setattr(
        Connections, "fetch", lambda self, sql, some=(), **how: (asked.extend(some), fetch(self, sql, some, **how))[1]
    )
    with EventStore(":memory:") as store:
        store.add_many([f"text {number}" for number in range(6)], vectors=[[1.0, number] for number in range(6)])
        for positions, reads in (([3, 1], [3, 1]), ([1, 3, 3], []), ([5, 1, 3], [5]), ([1, 3, 5], [])):
            asked.clear()
            contents = [memory.content for memory in store.states(positions)]
            assert contents == [f"text {position - 1}" for position in positions]
            assert asked == reads


def test_recorded_metadata_is_as_deep_as_an_append_records_at_most() -> None:
    """In as few characters as can be, and in many."""
    for space in ("", " " * 500):
        deep = ['{"":' + space + "[" * lists + "]" * lists + "}" for lists in (65, 66)]
        assert list(metadata_of(deep[0])) == [""]
        with pytest.raises(CorruptHistory, match="event 7 has metadata that no append can have recorded"):
            metadata_of(deep[1], 7)
    assert metadata_of('{"brackets":"' + "[" * 500 + '"}') == {"brackets": "[" * 500}
