"""Recover: a new database file that is the history up to an instant."""

from __future__ import annotations

import os
from pathlib import Path

from eventstore import AsOf, CorruptHistory, EventStore, Head
from eventstore.events import PayloadRow
from eventstore.schema import EVENT_COLUMNS
from replay.newfile import filled, insert_rows, new_database
from replay.rebuild import Progress
from replay.verify import verify

__all__ = ["recover"]

_BYTES_AT_ONCE = 8 * 2**20
_TABLES = {"events": EVENT_COLUMNS, "payloads": PayloadRow._fields}


def recover(store: EventStore, as_of: AsOf, to: str | os.PathLike[str], *, progress: Progress | None = None) -> Head:
    """Write the history up to an instant or position to a new database file, and return its head.

    The file holds the same events, hashes and settings and can be opened, and written to, like any other. It
    appears whole, verified and synced, or not at all: it is made beside under another name. `progress` is called
    with events copied and then checked, of twice the number of events.

    Raises:
        InvalidOperation: there is something at `to` already, or it is no path of a file.
        InvalidInstant: `as_of` names no settled point of the history.
        CorruptHistory: what was copied is not sound, so the store is not.
        StorageError: the file system refused.
    """
    head = store.head_at(as_of)
    with new_database(to, None if store._connections.in_memory else store._connections.file) as (part, target):
        _copy(store, head.position, part, target, progress)
        _require_sound(store, head, part, target, progress)
    return head


def _copy(store: EventStore, position: int, part: Path, target: Path, progress: Progress | None) -> None:
    with filled(part, target) as connection:
        for key, value in store._connections.fetch("SELECT key, value FROM settings"):
            if position or key != "dimension":  # which the first event fixes
                connection.execute("INSERT INTO settings VALUES (?, ?)", (key, value))
        step = max(1, min(1000, _BYTES_AT_ONCE // (4 * (store.dimension or 1))))
        for after in range(0, position, step):
            upto = min(after + step, position)
            for table, columns in _TABLES.items():
                sql = f"SELECT {', '.join(columns)} FROM {table} WHERE seq > ? AND seq <= ? ORDER BY seq"
                rows = store._connections.fetch(sql, (after, upto))
                if len(rows) != upto - after:
                    raise CorruptHistory(
                        f"{store.path} lacks {table} between positions {after + 1} and {upto}: "
                        f"{target} was not written; run `replay verify` to see what is still good"
                    )
                insert_rows(connection, table, rows)
            if progress is not None:
                progress(upto, 2 * position)


def _require_sound(store: EventStore, head: Head, part: Path, target: Path, progress: Progress | None) -> None:
    def shifted(done: int, total: int) -> None:
        assert progress is not None
        progress(head.position + done, head.position + total)

    report = verify(part, progress=None if progress is None else shifted)
    if not report.ok or report.head != head or report.events != head.position:
        found = report.faults[0].message if report.faults else f"its head is {report.head}, not {head}"
        raise CorruptHistory(
            f"what was copied from {store.path} is not sound ({found}): {target} was not written; "
            "run `replay verify` to see what is still good, `replay salvage` to save that"
        )
