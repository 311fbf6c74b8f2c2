"""The recorded vectors of a segment, bit for bit: in memory, or in the file of a checkpoint."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eventstore import Vector
from eventstore.versions import grown
from projections.checkpoints import NO_LINK

try:
    import resource
except ImportError:  # Windows, where none stays open
    resource = None  # type: ignore[assignment]

__all__ = ["Damaged", "Digests", "HeldRows", "Rows", "StoredRows", "VectorMemory", "digests_of"]

Rows = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]

# Once more than this share of a file's rows has been asked for, it is read whole: 16,384 rows of 384 numbers take 10 to
# 17 ms that way, and 2 to 4 us each otherwise. So no more is spent before than on reading them all; who does not know
# what will be asked for cannot be sure of less than twice the least (skis, to rent or to buy).
_WHOLE_SHARE = 0.25
# So few are not looked at for being one after the other.
_FEW = 16
# As many as stay in the processor's cache while their digests are made.
_ROWS_AT_ONCE = 64
# For an index of 128 segments, 2 million rows; to open a file costs about as much as to read ten rows of it.
_MOST_OPEN = 128
# Windows has none, and removes no file that is open: there files are opened for each reading.
_STAYS_OPEN = hasattr(os, "pread")


def _most_open() -> int:
    """How many files an index may keep open: no more than an eighth of what the process may."""
    limit = -1 if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if limit < 0 else min(_MOST_OPEN, limit // 8)


class Damaged(Exception):
    """The file of `rows` cannot be read, or does not hold what was written to it: then it is `altered`, in `wrong`."""

    def __init__(self, rows: StoredRows, reason: str, wrong: Rows | None = None) -> None:
        super().__init__(reason)
        self.rows = rows
        self.altered = wrong is not None
        self.wrong: Rows = np.empty(0, dtype=np.int64) if wrong is None else wrong


@functools.lru_cache(maxsize=16)
def _multipliers(dimension: int) -> Digests:
    heads = b"".join(sha256(number.to_bytes(4, "little")).digest()[:8] for number in range(dimension))
    return np.frombuffer(heads, dtype="<u8").astype(np.uint64) | np.uint64(1)


def digests_of(vectors: Vector) -> Digests:
    """What a single row is checked with when it is read: a sum over its numbers, modulo 2**64, shape `(rows,)`.

    Number i, its four bytes taken as a whole number, is multiplied by the first 8 bytes of the SHA-256 of i, made odd;
    whole numbers are little-endian, i in four bytes. A change within one number always shows: its difference is below
    2**32, and an odd factor never makes it a multiple of 2**64. So does the same bit flipped in two numbers, and two
    numbers exchanged, among the first 4,096 at least (`tests/test_row_digests.py`). Any other change has, over all the
    multipliers there could be, a chance of at most one in 2**32 not to show (multilinear hashing: Lemire and Kaser,
    Strongly universal string hashing is fast, 2014). That is for damage: who forges a row can forge its digest too, and
    is found by comparing with the history.
    """
    words = np.ascontiguousarray(vectors).astype("<f4", copy=False).view("<u4")
    multipliers = _multipliers(words.shape[1])
    digests = np.empty(len(words), dtype=np.uint64)
    for start in range(0, len(words), _ROWS_AT_ONCE):
        block = words[start : start + _ROWS_AT_ONCE].astype(np.uint64)
        np.einsum("ij,j->i", block, multipliers, out=digests[start : start + _ROWS_AT_ONCE])
    return digests


class HeldRows:
    """Vectors in memory."""

    def __init__(self, dimension: int, room: int = 0) -> None:
        """No rows yet, and room for so many: more can come, but what is there has then to be copied."""
        self._vectors: Vector = np.empty((room, dimension), dtype=np.float32)
        self.count = 0

    @classmethod
    def of(cls, vectors: Vector) -> HeldRows:
        """Rows that are in memory already."""
        made = cls(vectors.shape[1])
        made._vectors, made.count = vectors, len(vectors)
        return made

    def add(self, vectors: Vector) -> None:
        """Append rows."""
        end = self.count + len(vectors)
        self._vectors = grown(self._vectors, self.count, len(vectors)).view(np.float32)
        self._vectors[self.count : end] = vectors
        self.count = end

    def all(self) -> Vector:
        """Every row, shape `(count, dimension)`: a view."""
        return self._vectors[: self.count]

    def take(self, rows: Rows) -> Vector:
        """Some rows, shape `(len(rows), dimension)`."""
        return self._vectors.take(rows, axis=0)

    def row(self, row: int) -> tuple[Vector, None]:
        """A row, shape `(dimension,)`, little-endian; there is nothing to check."""
        return np.asarray(self._vectors[row], dtype="<f4"), None

    @property
    def in_memory(self) -> int:
        """How many bytes of vectors are in memory."""
        return self.all().nbytes

    def stored(self) -> Vector:
        """Every row; there is no file of them."""
        return self.all()


class VectorMemory:
    """The memory for vectors that files hold as well: `most` bytes for all of an index's segments.

    Ctrl-C may come between any two steps. So nothing is counted: what is held is looked up each time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._rows: weakref.WeakSet[StoredRows] = weakref.WeakSet()
        self._open: weakref.WeakSet[_File] = weakref.WeakSet()
        self._lock = threading.Lock()

    def share(self, rows: StoredRows) -> None:
        """Let these rows have a share of it."""
        with self._lock:
            self._rows.add(rows)

    def has_room_for(self, rows: StoredRows) -> bool:
        """Whether all of these rows' vectors would fit beside what is held."""
        with self._lock:
            return self._has_room_for(rows)

    def _has_room_for(self, rows: StoredRows) -> bool:
        others = sum(each.in_memory for each in self._rows if each is not rows)
        return others + rows.size <= self.most

    def hold(self, rows: StoredRows, vectors: Vector) -> None:
        """Keep the vectors of these rows, if they fit."""
        with self._lock:
            if self._has_room_for(rows):
                rows.held = vectors

    def let_go(self, parts: Sequence[StoredRows]) -> None:
        """Forget the vectors of the first of these rows, and of more of them, until all that is held fits."""
        with self._lock:
            over = sum(each.in_memory for each in self._rows) - self.most
            for rows in parts:
                if over <= 0:
                    return
                over -= rows.in_memory
                rows.held = None

    def may_stay_open(self, file: _File) -> bool:
        """Whether a file that was opened may stay so: a process has not many descriptors."""
        with self._lock:
            if len(self._open) < _most_open():
                self._open.add(file)
            return file in self._open


class StoredRows:
    """Vectors in a file, read when they are asked for and checked row by row; kept once many have been asked for.

    By read and not by mapping: a mapped file that is cut short, or whose disk fails, ends the process.
    """

    def __init__(
        self, path: Path, dimension: int, digests: Digests, memory: VectorMemory, held: Vector | None = None
    ) -> None:
        self.path = path
        self.count = len(digests)
        self.digests = digests
        self.held = held
        self._dimension = dimension
        self._memory = memory
        self._file: _File | None = None
        self._asked = 0
        memory.share(self)

    @property
    def size(self) -> int:
        """How many bytes the vectors have."""
        return 4 * self.count * self._dimension

    @property
    def in_memory(self) -> int:
        """How many bytes of vectors are in memory: all or none."""
        return 0 if self.held is None else self.size

    def keep_open(self) -> None:
        """Open the file, so that whatever becomes of its name or its directory does not matter; `OSError`."""
        if _STAYS_OPEN and self._file is None:
            self._opened()

    def _opened(self) -> _File:
        file = self._file
        if file is None:
            file = _File(self.path)
            if _STAYS_OPEN and self._memory.may_stay_open(file):
                self._file = file
        return file

    def all(self) -> Vector:
        """Every row, shape `(count, dimension)`; `Damaged` where the file is."""
        held = self.held
        return self.stored() if held is None else held

    def stored(self) -> Vector:
        """Every row as it is in the file, whatever is in memory; `Damaged` where the file is."""
        vectors = self._read([(0, self.count)])
        self._check(vectors, np.arange(self.count))
        return vectors

    def take(self, rows: Rows) -> Vector:
        """Some rows, shape `(len(rows), dimension)`; `Damaged` where the file is."""
        held = self._held(len(rows))
        if held is not None:
            return held.take(rows, axis=0)
        if len(rows) > _FEW and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            vectors = self._read([(int(rows[0]), len(rows))])
        else:
            vectors = self._read([(row, 1) for row in rows.tolist()])
        self._check(vectors, rows)
        return vectors

    def row(self, row: int) -> tuple[Vector | bytes, np.uint64 | None]:
        """A row, little-endian, and the digest that its bytes are to have; None where it was in memory.

        Whoever takes rows one by one checks them together: that costs less.
        """
        held = self._held(1)
        if held is not None:
            return np.asarray(held[row], dtype="<f4"), None
        return self._bytes(row, 1), self.digests[row]

    def _held(self, asked: int) -> Vector | None:
        """All rows, where they are in memory, or come there because with these that are asked for many have been."""
        held = self.held
        if held is not None:
            return held
        # Threads that ask at the same time may miss each other's count: then the file is read whole a little later.
        self._asked += asked
        enough = _WHOLE_SHARE * self.count
        if self._asked > enough:
            self._asked = 0
            if asked > enough or self._memory.has_room_for(self):
                held = self.stored()
                self._memory.hold(self, held)
        return held

    def _check(self, vectors: Vector, rows: Rows) -> None:
        wrong = rows[digests_of(vectors) != self.digests[rows]]
        if len(wrong):
            raise self.altered(wrong)

    def altered(self, rows: Rows) -> Damaged:
        """The error that says that rows are not what was written."""
        return Damaged(self, f"{self.path.name} does not hold the vectors that were written to it", rows)

    def _read(self, rows: list[tuple[int, int]]) -> Vector:
        """The rows of these runs, each a first row and how many, one after the other, as the file has them now."""
        content = [self._bytes(first, count) for first, count in rows]
        together = content[0] if len(content) == 1 else b"".join(content)
        return np.frombuffer(together, dtype="<f4").reshape(-1, self._dimension)

    def _bytes(self, first: int, count: int) -> bytes:
        row = 4 * self._dimension
        try:
            file = self._opened()  # closed when nothing refers to it
            return _read(file.descriptor, count * row, first * row)
        except OSError as error:
            raise Damaged(self, f"{self.path.name} cannot be read: {error.strerror or error}") from error


class _File:
    """A file, open for as long as somebody has this: also once it has been removed or another has its name."""

    descriptor = -1

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | NO_LINK | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    content = _read_some(descriptor, size, offset)
    while len(content) < size:
        more = _read_some(descriptor, size - len(content), offset + len(content))
        if not more:
            raise OSError(f"it ends before byte {offset + size}")
        content += more
    return content


def _read_some(descriptor: int, size: int, offset: int) -> bytes:
    if _STAYS_OPEN:
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)
