"""Rows in the bytes of a page: https://www.sqlite.org/fileformat2.html, sections 1.6, 2.1 and 2.3.

A row of a table is a cell: the length of its record and its rowid as varints, then the record, the end of which is on
other pages where it is long. A record is a header, the type of each value, and then the values. Ours are known by the
types: `events` has eighteen values and ends in two blobs of 32 bytes, `payloads` has five and a salt of 16 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from eventstore.schema import EVENT_COLUMNS

__all__ = [
    "INDEX_LEAF",
    "TABLE_LEAF",
    "Cell",
    "carved",
    "cell_at",
    "index_cells",
    "local_length",
    "table_cells",
    "values_of",
]

TABLE_LEAF = 0x0D
INDEX_LEAF = 0x0A

_SALT = 44  # the type of a blob of 16 bytes
_DIGEST = 76  # ... and of one of 32
_TEXTS = (19, 25)  # the types of texts of 3 and 6 bytes: ADD, and UPDATE or DELETE
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # type -> bytes
_LONGEST_HEADER = 127  # ours have one byte for each column, and a few more where texts are long
_LEAST_EVENT_HEADER = 1 + len(EVENT_COLUMNS)
_PAYLOAD = re.compile(rb"(?=[\x06-\x20]\x00\x2c)", re.DOTALL)
_EVENT_END = re.compile(rb"(?=\x4c\x4c)")


class Cell(NamedTuple):
    """Where a row is in a page: of which table, at what position, and where its record begins."""

    table: str
    rowid: int
    offset: int
    record: int
    length: int


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; IndexError past the end of the page."""
    value = 0
    for end in range(at, at + 8):
        byte = page[end]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, end + 1
    return value << 8 | page[at + 8], at + 9


def _encoded(value: int) -> bytes:
    """A number below 2**56 as a varint."""
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))


def _types(page: bytes, record: int) -> tuple[list[int], int]:
    """The types that a record's header names, and the length of the header; none where it is no header."""
    length = page[record]
    if not 1 < length <= _LONGEST_HEADER:
        return [], 0
    types, at, end = [], record + 1, record + length
    while at < end:
        kind, at = _varint(page, at)
        types.append(kind)
    return (types, length) if at == end else ([], 0)


def _size(kind: int) -> int:
    """How many bytes a value of a type takes."""
    return (kind - 12) // 2 if kind >= 12 else _INTEGERS.get(kind, 0)


def _is_integer(kind: int) -> bool:
    return kind in _INTEGERS or kind in (8, 9)


def _is_text(kind: int) -> bool:
    return kind >= 13 and kind % 2 == 1


def _table_of(types: list[int]) -> str | None:
    """Which of our tables has rows of these types."""
    if len(types) == len(EVENT_COLUMNS):
        return "events" if _is_event(types) else None
    if len(types) == 5:
        null, salt, content, metadata, embedding = types
        if null == 0 and salt == _SALT and (embedding == 0 or (embedding >= 12 and embedding % 2 == 0)):
            return "payloads" if all(kind == 0 or _is_text(kind) for kind in (content, metadata)) else None
    if len(types) == 2 and _is_text(types[0]):
        return "settings" if _is_text(types[1]) else "sqlite_sequence" if _is_integer(types[1]) else None
    return None


def _is_event(types: list[int]) -> bool:
    null, event_id, memory_id, version, prev_seq, add_seq, embedding_seq, kind, recorded_at, occurred_at = types[:10]
    return (
        null == 0
        and types[16] == types[17] == _DIGEST
        and kind in _TEXTS
        and _is_text(event_id)
        and _is_text(memory_id)
        and all(map(_is_integer, (version, add_seq, recorded_at)))
        and all(kind == 0 or _is_integer(kind) for kind in (prev_seq, embedding_seq, occurred_at))
        and all(kind == 0 or _is_text(kind) for kind in types[10:16])
    )


def table_cells(page: bytes, header: int) -> Iterator[Cell]:
    """The rows of our tables on a leaf page of a table, as its array of pointers has them.

    `header` is where the page's header is: 100 on the first page of a file, 0 on the others.
    """
    for offset in _pointers(page, header):
        cell = cell_at(page, offset)
        if cell is not None:
            yield cell


def cell_at(page: bytes, offset: int) -> Cell | None:
    """The row of one of our tables that begins at an offset; None where none does."""
    try:
        length, at = _varint(page, offset)
        rowid, record = _varint(page, at)
        types, header_length = _types(page, record)
    except IndexError:
        return None
    table = _table_of(types)
    if table is None or length != header_length + sum(map(_size, types)):
        return None
    return Cell(table, rowid, offset, record, length)


def _pointers(page: bytes, header: int) -> list[int]:
    count = int.from_bytes(page[header + 3 : header + 5], "big")
    end = header + 8 + 2 * count
    if end > len(page):
        return []
    found = {int.from_bytes(page[at : at + 2], "big") for at in range(header + 8, end, 2)}
    return sorted(offset for offset in found if end <= offset < len(page))


def carved(page: bytes) -> Iterator[Cell]:
    """Whatever looks like a row of `events` or `payloads`, wherever it lies in the bytes of a page.

    For pages whose header or pointers are damaged. What is found so may also stand in somebody's content or
    embedding, made to look like a row: it has to be proven by more than by itself.
    """
    for found in _PAYLOAD.finditer(page):
        yield from _carved_at(page, found.start(), "payloads")
    for found in _EVENT_END.finditer(page):
        end = found.start() + 2
        for length in range(_LEAST_EVENT_HEADER, min(_LONGEST_HEADER, end) + 1):
            if page[end - length] == length and page[end - length + 1] == 0:
                yield from _carved_at(page, end - length, "events")


def _carved_at(page: bytes, record: int, table: str) -> Iterator[Cell]:
    try:
        types, header_length = _types(page, record)
    except IndexError:
        return
    if _table_of(types) != table:
        return
    length = header_length + sum(map(_size, types))
    said = _encoded(length)
    # The record's length is known, so it says where the cell begins: before a rowid of one byte or more.
    for start in range(record - 1, max(record - 9, 0), -1):
        if page[start - len(said) : start] == said:
            rowid, end = _varint(page, start)
            if end == record:
                yield Cell(table, rowid, start - len(said), record, length)
                return


def index_cells(page: bytes, header: int) -> Iterator[tuple[Any, ...]]:
    """The short entries on a leaf page of an index."""
    for offset in _pointers(page, header):
        try:
            length, record = _varint(page, offset)
            types, header_length = _types(page, record)
        except IndexError:
            continue
        if types and length == header_length + sum(map(_size, types)) and record + length <= len(page):
            try:
                yield values_of(page[record : record + length])
            except ValueError:
                continue


def local_length(length: int, usable: int) -> int:
    """How many bytes of a record of a table are on the leaf page itself."""
    most = usable - 35
    if length <= most:
        return length
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)
    return local if local <= most else least


def values_of(record: bytes) -> tuple[Any, ...]:
    """The values of a record; ValueError where a text is not UTF-8 or a value is of a type that we never write."""
    types, at = _types(record, 0)
    values: list[Any] = []
    for kind in types:
        size = _size(kind)
        value = record[at : at + size]
        at += size
        if kind == 0:
            values.append(None)
        elif kind in _INTEGERS:
            values.append(int.from_bytes(value, "big", signed=True))
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind >= 12:
            values.append(value.decode() if kind % 2 else value)
        else:
            raise ValueError(f"a value of type {kind}")
    return tuple(values)
