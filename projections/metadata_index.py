"""Filters as bitmaps: for each metadata key, which rows have it and which of its distinct values each has."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from eventstore.events import metadata_of
from eventstore.filters import And, Condition, Everything, Filter, Not, Or, json_key
from eventstore.versions import grown
from projections.recent import Recent

__all__ = ["MetadataIndex"]

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.uint32]

_REMEMBERED_TEXTS = 4096
# What a condition matched among the rows before a multiple of this is remembered: it never changes.
_REMEMBERED_ROWS = 512
_REMEMBERED_BITMAPS = 256
_HEADER = struct.Struct("<I")


class _Column:
    """The rows that have a key, ascending, and the number of the value that each has."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._pending: list[tuple[int, int]] = []
        self._table = np.empty((0, 2), dtype=np.uint32)
        self._used = 0
        self._orders: dict[bool, tuple[int, list[int]]] = {}

    def number_of(self, value: Any) -> int:
        key = json_key(value)
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def put(self, row: int, number: int) -> None:
        self._pending.append((row, number))

    def settle(self) -> None:
        if self._pending:
            self.extend(np.array(self._pending, dtype=np.uint32))
            self._pending.clear()

    def extend(self, pairs: Numbers) -> None:
        """Take rows, ascending, and the numbers of their values, shape `(rows, 2)`."""
        self._table = grown(self._table, self._used, len(pairs)).view(np.uint32)
        self._table[self._used : self._used + len(pairs)] = pairs
        self._used += len(pairs)

    def between(self, start: int, stop: int) -> Numbers:
        """The rows in `[start, stop)` that have the key, and the numbers of their values."""
        # Looked for as what they are: for another type numpy would make a copy of all rows first.
        first, last = np.searchsorted(self._table[: self._used, 0], np.array((start, stop), dtype=np.uint32))
        return self._table[first:last]

    def matching(self, condition: Condition, start: int, stop: int) -> Mask:
        mask = np.full(stop - start, condition.accepts_missing, dtype=np.bool_)
        pairs = self.between(start, stop)
        mask[pairs[:, 0] - np.uint32(start)] = self._accepted(condition, pairs[:, 1])
        return mask

    def _accepted(self, condition: Condition, numbers: Numbers) -> Mask:
        """Which of these values a condition accepts; equality and order look them up instead of trying each."""
        if condition.op in ("eq", "in", "ne", "nin"):
            known = [self._numbers[key] for key in condition.keys if key in self._numbers]
            return np.isin(numbers, np.array(known, dtype=np.uint32), invert=condition.op in ("ne", "nin"))
        accepted = np.zeros(len(self.values), dtype=np.bool_)
        if condition.op in ("gt", "gte", "lt", "lte"):
            sorted_values, order = self._ordered(is_text=isinstance(condition.operand, str))
            is_upper = condition.op in ("gt", "gte")
            cut = bisect.bisect_left(order, True, key=lambda n: condition.accepts(self.values[n]) == is_upper)
            accepted[order[cut:] if is_upper else order[:cut]] = True
            fresh: Iterable[int] = range(sorted_values, len(self.values))
        else:
            fresh = np.unique(numbers).tolist() if len(numbers) < len(self.values) else range(len(self.values))
        for number in fresh:
            accepted[number] = condition.accepts(self.values[number])
        return accepted[numbers]

    def _ordered(self, *, is_text: bool) -> tuple[int, list[int]]:
        """The numbers, or the texts, among the first so many values, in their order; most of the values."""
        known, order = self._orders.get(is_text, (0, []))
        if len(self.values) > known + max(64, known // 8):
            known = len(self.values)
            kinds: tuple[type, ...] = (str,) if is_text else (int, float)
            chosen = [n for n in range(known) if type(self.values[n]) in kinds]
            order = sorted(chosen, key=self.values.__getitem__)
            self._orders[is_text] = known, order
        return known, order


class MetadataIndex:
    """Which rows match a filter. A row's metadata never change, so rows are only ever added."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, _Column] = {}
        self._remembered: dict[str, list[tuple[_Column, int]]] = {}
        self._bitmaps: Recent[Condition, tuple[int, npt.NDArray[np.uint8]]] = Recent(_REMEMBERED_BITMAPS)

    def extend(self, metadata: Iterable[str]) -> None:
        """Take the metadata, as JSON text, of the next rows."""
        row = self.rows
        try:
            for text in metadata:
                for column, number in self._remembered.get(text) or self._parse(text):
                    column.put(row, number)
                row += 1
            for column in self._columns.values():
                column.settle()
        except BaseException:
            # Interrupted: some columns have rows that others have not. Start over; the history has everything.
            self.__init__()  # type: ignore[misc]
            raise
        self.rows = row

    def _parse(self, text: str) -> list[tuple[_Column, int]]:
        pairs = []
        for key, value in metadata_of(text).items():
            column = self._columns.setdefault(key, _Column())
            pairs.append((column, column.number_of(value)))
        if len(self._remembered) >= _REMEMBERED_TEXTS:
            self._remembered.clear()
        self._remembered[text] = pairs
        return pairs

    # Checkpoints

    def packed(self, start: int, count: int) -> bytes | None:
        """The metadata of `count` rows from `start`, for `extend_packed`; None while they are not all indexed.

        A length (uint32), so much JSON: `{"rows": n, "columns": [[key, [value, ...], pairs], ...]}`, and for each
        column its pairs of uint32, the row counted from `start` and the value's place in the list.
        """
        if self.rows < start + count:
            return None
        columns, arrays = [], []
        for key, column in sorted(self._columns.items()):
            pairs = column.between(start, start + count)
            if len(pairs):
                numbers, places = np.unique(pairs[:, 1], return_inverse=True)
                columns.append([key, [column.values[number] for number in numbers.tolist()], len(pairs)])
                arrays.append(np.stack([pairs[:, 0] - np.uint32(start), places.astype(np.uint32)], axis=1))
        header = orjson.dumps({"rows": count, "columns": columns})
        return b"".join([_HEADER.pack(len(header)), header, *(array.astype("<u4").tobytes() for array in arrays)])

    def extend_packed(self, content: bytes, count: int) -> None:
        """Take the next `count` rows from what `packed` made of them.

        Raises:
            ValueError: the content is not what `packed` makes of so many rows.
        """
        start = self.rows
        try:
            (length,) = _HEADER.unpack_from(content)
            header = orjson.loads(content[_HEADER.size : _HEADER.size + length])
            at, rows = _HEADER.size + length, header["rows"]
            if rows != count:
                raise ValueError(f"it is of {rows!r} rows and not of {count}")
            for key, values, count in header["columns"]:
                pairs = np.frombuffer(content, dtype="<u4", count=2 * count, offset=at).reshape(count, 2).copy()
                if count and (pairs[:, 0].max() >= rows or (np.diff(pairs[:, 0].astype(np.int64)) <= 0).any()):
                    raise ValueError(f"rows of {key!r} are not ascending")
                at += pairs.nbytes
                column = self._columns.setdefault(key, _Column())
                pairs[:, 1] = np.array([column.number_of(value) for value in values], dtype=np.uint32)[pairs[:, 1]]
                pairs[:, 0] += np.uint32(start)
                column.extend(pairs)
            if at != len(content):
                raise ValueError(f"{len(content) - at} bytes too many")
        except (struct.error, IndexError, KeyError, TypeError, orjson.JSONDecodeError) as error:
            self.__init__()  # type: ignore[misc]
            raise ValueError(str(error)) from error
        except BaseException:
            self.__init__()  # type: ignore[misc]
            raise
        self.rows = start + rows

    # Matching

    def matching(self, filter: Filter, rows: int) -> Mask:
        """Which of the first `rows` rows match, shape `(rows,)`."""
        if isinstance(filter, Condition):
            return self._condition(filter, rows)
        if isinstance(filter, Not):
            return ~self.matching(filter.part, rows)
        if isinstance(filter, And):
            masks = [self.matching(part, rows) for part in filter.parts]
            return np.logical_and.reduce(masks) if masks else np.ones(rows, dtype=np.bool_)
        if isinstance(filter, Or):
            masks = [self.matching(part, rows) for part in filter.parts]
            return np.logical_or.reduce(masks) if masks else np.zeros(rows, dtype=np.bool_)
        assert isinstance(filter, Everything)
        return np.ones(rows, dtype=np.bool_)

    def _condition(self, condition: Condition, rows: int) -> Mask:
        settled = self.rows - self.rows % _REMEMBERED_ROWS
        if rows < settled:
            # A search of the past: the first bits of the same bitmap.
            return self._bits(condition, settled)[:rows]
        tail = self._matching(condition, settled, rows)
        return np.concatenate([self._bits(condition, settled), tail]) if settled else tail

    def _bits(self, condition: Condition, settled: int) -> Mask:
        kept = self._bitmaps.get(condition) or (0, np.empty(0, dtype=np.uint8))
        known, bits = kept
        if known < settled:
            fresh = np.packbits(self._matching(condition, known, settled), bitorder="little")
            kept = settled, bits = settled, np.concatenate([bits, fresh])
        self._bitmaps.put(condition, kept)
        return np.unpackbits(bits, count=settled, bitorder="little").view(np.bool_)

    def _matching(self, condition: Condition, start: int, stop: int) -> Mask:
        column = self._columns.get(condition.key)
        if column is None:
            return np.full(stop - start, condition.accepts_missing, dtype=np.bool_)
        return column.matching(condition, start, stop)
