"""Filters as bitmaps: for each metadata key, which rows have it and which of its distinct values each has."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from eventstore.events import metadata_of
from eventstore.filters import And, Condition, Everything, Filter, Not, Or, json_key
from eventstore.versions import grown

__all__ = ["MetadataIndex"]

Mask = npt.NDArray[np.bool_]

_REMEMBERED_TEXTS = 4096


class _Column:
    """The rows that have a key, ascending, and the number of the value that each has."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._pending: list[tuple[int, int]] = []
        self._table = np.empty((0, 2), dtype=np.uint32)
        self._used = 0

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
            fresh = np.array(self._pending, dtype=np.uint32)
            self._table = grown(self._table, self._used, len(fresh)).view(np.uint32)
            self._table[self._used : self._used + len(fresh)] = fresh
            self._used += len(fresh)
            self._pending.clear()

    def matching(self, condition: Condition, rows: int) -> Mask:
        mask = np.full(rows, condition.accepts_missing, dtype=np.bool_)
        table = self._table[: np.searchsorted(self._table[: self._used, 0], rows)]
        mask[table[:, 0]] = self._accepted(condition)[table[:, 1]]
        return mask

    def _accepted(self, condition: Condition) -> Mask:
        """Which of the distinct values a condition accepts; equality looks them up instead of trying each."""
        if condition.op in ("eq", "in", "ne", "nin"):
            numbers = [self._numbers[key] for key in condition.keys if key in self._numbers]
            accepted = np.full(len(self.values), condition.op in ("ne", "nin"), dtype=np.bool_)
            accepted[numbers] = condition.op in ("eq", "in")
            return accepted
        return np.fromiter((condition.accepts(value) for value in self.values), np.bool_, len(self.values))


class MetadataIndex:
    """Which rows match a filter. A row's metadata never change, so rows are only ever added."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, _Column] = {}
        self._remembered: dict[str, list[tuple[_Column, int]]] = {}

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

    def matching(self, filter: Filter, rows: int) -> Mask:
        """Which of the first `rows` rows match, shape `(rows,)`."""
        if isinstance(filter, Condition):
            column = self._columns.get(filter.key)
            if column is None:
                return np.full(rows, filter.accepts_missing, dtype=np.bool_)
            return column.matching(filter, rows)
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
