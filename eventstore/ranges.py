"""Ranges of the history by column, checked as they are read: for a rebuild, an audit, and the fold of all headers.

They are read in blocks that stay in the processor's cache while they are checked and copied, and each block is held to
the chain and the digests at once. Where that fails nothing is said yet: the whole range is gone through again row by
row (`CheckedRows`), which names what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eventstore.checked import CheckedRows, RowSource
from eventstore.errors import CorruptHistory
from eventstore.events import Vector
from eventstore.hashing import GENESIS
from eventstore.proofs import headers_hold, payloads_hold
from eventstore.queries import HEADER_RANGE, PAYLOAD_RANGE
from eventstore.recent import RecentRows
from eventstore.versions import Positions

__all__ = ["CheckedRanges", "EventColumns", "Links"]

_HEADERS_AT_ONCE = 1000
_BYTES_AT_ONCE = 2**20
_ROW_BYTES = 512  # of a header and a payload, but for the embedding; roughly

Row = tuple[Any, ...]


class Links(NamedTuple):
    """What `VersionTable.extend` takes of events; `prev_seqs` is 0 where there is none."""

    seqs: Positions
    is_delete: npt.NDArray[np.bool_]
    prev_seqs: Positions


@dataclass(frozen=True, slots=True)
class EventColumns:
    """What an index needs of the events in `(after, upto]`, by column; all int64 but the last two.

    `prev_seqs` and `embedding_seqs` are 0 where there is none. `embedding_at` names the events that hold an
    embedding of their own, ascending, and `embeddings` holds those, float32, shape `(len(embedding_at), dim)`.
    """

    seqs: Positions
    prev_seqs: Positions
    embedding_seqs: Positions
    is_delete: npt.NDArray[np.bool_]
    embedding_at: Positions
    embeddings: Vector


class CheckedRanges:
    """Reads ranges of positions; `rows` reads what has to be looked at row by row."""

    def __init__(self, source: RowSource, rows: CheckedRows, recent: RecentRows) -> None:
        self._source = source
        self._rows = rows
        self._recent = recent

    def links(self, after: int, upto: int) -> Links:
        """The links of the events in `(after, upto]`, from headers that are as they were recorded."""
        made = _Columns(after, upto)
        if (recent := self._recent.between(after, upto)) is not None:
            made.take_headers([header for header, _ in recent])
        elif not self._all_hold(after, upto, _HEADERS_AT_ONCE, made.take_headers):
            made = _Columns(after, upto)
            made.take_headers(self._rows.range(after, upto))
        return made.links()

    def columns(self, after: int, upto: int, dimension: int) -> EventColumns:
        """The columns of the events in `(after, upto]`, all as they were recorded."""
        made = _Columns(after, upto, dimension)

        def take(headers: Sequence[Row]) -> bool:
            payloads = self._source.fetch(PAYLOAD_RANGE, (headers[0][0], headers[-1][0]))
            return payloads_hold(headers, payloads) and made.take(headers, payloads)

        headers: Sequence[Row]
        payloads: Sequence[Row]
        if (recent := self._recent.between(after, upto)) is not None:
            headers, payloads = [header for header, _ in recent], [payload for _, payload in recent]
        elif self._all_hold(after, upto, max(1, _BYTES_AT_ONCE // (4 * dimension + _ROW_BYTES)), take):
            return made.columns()
        else:
            headers = self._rows.range(after, upto)
            held = self._rows.payload_range(headers)
            payloads = [held[header.seq] for header in headers]
        made = _Columns(after, upto, dimension)
        if not made.take(headers, payloads):
            raise self._rows.damaged(after + 1, "or one soon after has no embedding of the store's dimension")
        return made.columns()

    def _all_hold(self, after: int, upto: int, at_once: int, take: Callable[[Sequence[Row]], bool]) -> bool:
        """Whether every header in `(after, upto]` is there and as it was recorded, and `take` says so of each block."""
        if after == upto:
            return False  # nothing to be taken, but there has to be an event to come after
        last: list[Row] = []
        try:
            for low in range(after, upto, at_once):
                high = min(low + at_once, upto)
                # The row before comes along, once, so that each is checked against the one read before it.
                rows = last + self._source.fetch(HEADER_RANGE, (low + len(last), high))
                if [row[0] for row in rows] != list(range(max(low, 1), high + 1)):
                    return False
                befores = [row[-1] for row in rows[:-1]]
                headers = rows[1:] if low else rows
                if not headers_hold(befores if low else [GENESIS, *befores], headers) or not take(headers):
                    return False
                last = rows[-1:]
        except CorruptHistory:
            return False  # whoever reads row by row comes upon it again, in its order
        return True


class _Columns:
    """Columns in the making."""

    def __init__(self, after: int, upto: int, dimension: int = 0) -> None:
        count = max(0, upto - after)
        self._seqs = np.arange(after + 1, after + count + 1, dtype=np.int64)
        self._prev_seqs: list[int] = []
        self._embedding_seqs: list[int] = []
        self._is_delete: list[bool] = []
        self._own: list[int] = []
        self._embeddings: Vector = np.empty((count, dimension), dtype="<f4")

    def take_headers(self, headers: Sequence[Row]) -> bool:
        """Take the next headers."""
        self._prev_seqs += [row[4] or 0 for row in headers]
        self._is_delete += [row[7] == "DELETE" for row in headers]
        return True

    def take(self, headers: Sequence[Row], payloads: Sequence[Row]) -> bool:
        """Take the next events; False where one has no embedding of the dimension and says that it has."""
        holders = [row[6] or 0 for row in headers]
        own = [row[0] for row in headers if row[0] == row[6]]
        if own == holders:
            blobs = [payload[4] or b"" for payload in payloads]
        else:
            blobs = [
                payload[4] or b"" for payload, holder in zip(payloads, holders, strict=True) if payload[0] == holder
            ]
        dimension = self._embeddings.shape[1]
        if not {4 * dimension}.issuperset(map(len, blobs)):
            return False
        start, end = len(self._own), len(self._own) + len(own)
        vectors = np.frombuffer(b"".join(blobs), dtype="<f4")
        self._embeddings[start:end] = vectors.reshape(len(own), dimension)
        self._own += own
        self._embedding_seqs += holders
        return self.take_headers(headers)

    def links(self) -> Links:
        """What was taken of headers."""
        return Links(self._seqs, np.array(self._is_delete, dtype=np.bool_), np.array(self._prev_seqs, dtype=np.int64))

    def columns(self) -> EventColumns:
        """What was taken of events."""
        seqs, is_delete, prev_seqs = self.links()
        embeddings = self._embeddings[: len(self._own)]
        embeddings.setflags(write=False)
        return EventColumns(
            seqs=seqs,
            prev_seqs=prev_seqs,
            embedding_seqs=np.array(self._embedding_seqs, dtype=np.int64),
            is_delete=is_delete,
            embedding_at=np.array(self._own, dtype=np.int64),
            embeddings=embeddings,
        )
