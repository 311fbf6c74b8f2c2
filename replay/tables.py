"""The two tables of a history as they can be read: by SQLite, or out of the pages where its schema is lost."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.checks import MAX_DIMENSION
from eventstore.events import PayloadRow
from eventstore.queries import PAYLOAD_COLUMNS
from eventstore.schema import EVENT_COLUMNS
from eventstore.sqlite import sqlite3
from replay.damaged import Row, last_position, next_position, read_rows
from replay.found import Found

__all__ = ["COLUMNS", "Tables"]

COLUMNS = {"events": EVENT_COLUMNS, "payloads": PayloadRow._fields}
_SELECTED = {"events": ", ".join(EVENT_COLUMNS), "payloads": PAYLOAD_COLUMNS}


class Tables:
    """Reads ranges of rows; `by_sqlite` names the tables that SQLite reads, the others are those in `found`."""

    def __init__(self, connection: sqlite3.Connection, by_sqlite: Sequence[str], found: Found | None) -> None:
        self._connection = connection
        self._by_sqlite = [table for table in COLUMNS if table in by_sqlite]
        self._found = found
        self._in_pages = [table for table in COLUMNS if table not in by_sqlite and found and found.last(table)]

    def __contains__(self, table: str) -> bool:
        return table in self._by_sqlite or table in self._in_pages

    @property
    def in_pages(self) -> list[str]:
        """The tables that are read out of the pages."""
        return self._in_pages

    def read(self, table: str, after: int, upto: int) -> tuple[list[Row], dict[int, str]]:
        """The rows with positions in `(after, upto]`, in order; and the positions that cannot be read, why."""
        if table in self._by_sqlite:
            return read_rows(self._connection, table, _SELECTED[table], after, upto)
        rows, unreadable = [], dict[int, str]()
        assert self._found is not None
        position = self._found.after(table, after)
        while position is not None and position <= upto:
            row = next((row for row, intact in self._found.rows(table, position) if intact), None)
            if row is None:
                unreadable[position] = "what lies in the pages is no row"
            else:
                rows.append(row)
            position = self._found.after(table, position)
        return rows, unreadable

    def last(self) -> int:
        """The last position at which either has a row, as far as that can be told."""
        found = [self._found.last(table) for table in self._in_pages if self._found is not None]
        return max([last_position(self._connection, self._by_sqlite) if self._by_sqlite else 0, *found])

    def next(self, after: int) -> int | None:
        """The first position past `after` at which either has a row; None where that cannot be told."""
        following = [self._found.after(table, after) for table in self._in_pages if self._found is not None]
        if self._by_sqlite:
            following.append(next_position(self._connection, self._by_sqlite, after))
        return min((position for position in following if position is not None), default=None)

    def dimension(self) -> int | None:
        """The dimension of the vectors, as the settings in the pages say it, or else the first embedding."""
        if self._found is None:
            return None
        said = self._found.settings.get("dimension", "")
        if said.isascii() and said.isdigit() and 1 <= int(said[:9]) <= MAX_DIMENSION:
            return int(said)
        position = self._found.after("payloads", 0)
        while position is not None:
            for row, intact in self._found.rows("payloads", position):
                if intact and row[-1]:
                    return len(row[-1]) // 4 or None
            position = self._found.after("payloads", position)
        return None
