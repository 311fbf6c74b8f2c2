"""The version table of an index refuses links that no append can have written, before anything is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eventstore import CorruptHistory
from projections.rows import RowTable
from replay import state
from tests.replay_support import tamper, told


def table(*events: tuple[int, int, bool]) -> RowTable:
    """A table that was told events at once: position, position of the memory's event before, whether it is a DELETE."""
    found = RowTable()
    extend(found, *events)
    return found


def extend(rows: RowTable, *events: tuple[int, int, bool]) -> None:
    seqs, before, deletes = zip(*events, strict=True)
    rows.extend(np.array(seqs, np.int64), np.array(before, np.int64), np.array(deletes, np.bool_))


GOOD = ((1, 0, False), (2, 1, False), (3, 0, False), (4, 2, True), (5, 4, False))


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_row_lives_until_the_event_that_follows_it(cut: int) -> None:
    """However the events are cut: added, updated, deleted, added again."""
    found = table(*GOOD[:cut])
    extend(found, *GOOD[cut:])
    assert found.born.tolist() == [1, 2, 3, 5]
    assert found.died.tolist() == [2, 4, 0xFFFFFFFF, 0xFFFFFFFF]
    assert [found.alive(position).tolist() for position in range(6)] == [
        [],
        [True],
        [False, True],
        [False, True, True],
        [False, False, True],
        [False, False, True, True],
    ]


@pytest.mark.parametrize(
    "events",
    [
        ((6, 3, False), (7, 3, False)),
        ((6, 2, True),),
        ((6, 6, False),),
    ],
    ids=["two at once follow one", "one follows what has ended", "one follows itself"],
)
def test_links_that_cannot_be_are_refused(events: tuple[tuple[int, int, bool], ...]) -> None:
    """And the table stays as it was."""
    found = table(*GOOD)
    with pytest.raises(CorruptHistory, match=r"follow the same one|follows itself or one after"):
        extend(found, *events)
    assert found.rows == 4
    assert found.died.tolist() == [2, 4, 0xFFFFFFFF, 0xFFFFFFFF]
    extend(found, (6, 3, True))
    assert found.died.tolist() == [2, 4, 6, 0xFFFFFFFF]


@pytest.mark.parametrize("position", [0, 4, 6, 99])
def test_a_row_that_is_not_there_is_an_error(position: int) -> None:
    """Before the first, of a DELETE, past the last; alone or beside one that is there."""
    found = table(*GOOD)
    assert found.rows_of(np.array([5, 1], np.int64)).tolist() == [3, 0]
    for asked in ([position], [1, position], [position, 1]):
        with pytest.raises(CorruptHistory, match="embedding that is not there"):
            found.rows_of(np.array(asked, np.int64))


def test_a_memory_with_two_states_is_an_error(tmp_path: Path) -> None:
    """Where a link was cut and the chain computed anew, nothing is answered as if it were right."""
    from eventstore import Add, Update

    path = tmp_path / "a.db"
    told(
        [[Add(memory_id="a", content="x", vector=[1.0])], [Update(memory_id="a", content="y", vector=[2.0])]], path
    ).close()
    tamper(path, "PRAGMA ignore_check_constraints = ON", "UPDATE events SET prev_seq = NULL WHERE seq = 2", reseal=True)
    with told([], path) as store, pytest.raises(CorruptHistory, match="two states"):
        state(store)


@pytest.mark.parametrize(
    "change",
    [
        "embedding_seq = 3 WHERE seq = 4",  # a DELETE
        "embedding_seq = 5 WHERE seq = 4",  # a later event
        "embedding_seq = 900 WHERE seq = 6",  # beyond the head
        "embedding_seq = -1 WHERE seq = 4",
        "embedding_seq = 2 WHERE seq = 1",
        "prev_seq = 4294967297 WHERE seq = 4",  # 1, to who keeps 32 bits of it
        "prev_seq = 6 WHERE seq = 4",
    ],
)
def test_links_that_no_append_gives_are_an_error_to_an_index(tmp_path: Path, change: str) -> None:
    """Where they were changed and the chain computed anew, no other vector is searched in place of the right one."""
    from eventstore import Add, Delete, EventStore, Update
    from projections import VectorIndex

    path = tmp_path / "a.db"
    appends = [
        [Add(memory_id="a", content="a", vector=[1, 0]), Add(memory_id="b", content="b", vector=[0, 1])],
        [Delete(memory_id="b")],
        [Update(memory_id="a", content="a2", vector=[-1, 0]), Add(memory_id="c", content="c", vector=[2, 1])],
        [Update(memory_id="c", metadata={"x": 1})],
    ]
    with EventStore(path) as store:
        for append in appends:
            store.append(append)
    tamper(path, f"UPDATE events SET {change}", reseal=True)
    with EventStore(path) as store, pytest.raises(CorruptHistory, match=r"run `replay verify`"):
        VectorIndex(store).search([1.0, 0.0], 5)
