"""The recorded vectors of a segment, bit for bit: in memory, or in the file of a checkpoint."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eventstore import Vector
from eventstore.versions import grown
from projections.checkpoints import NO_LINK

__all__ = ["Damaged", "Digests", "HeldRows", "Rows", "StoredRows", "digests_of"]

Rows = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]

# Past this share of a file's rows it is read in one go.
_WHOLE_SHARE = 0.25


class Damaged(Exception):
    """The file of `rows` cannot be read, or does not hold what was written to it: then it is `altered`."""

    def __init__(self, rows: StoredRows, reason: str, *, altered: bool) -> None:
        super().__init__(reason)
        self.rows = rows
        self.altered = altered


def digests_of(vectors: Vector) -> Digests:
    """The first 8 bytes of each row's SHA-256: what a single row is checked with when it is read."""
    rows = np.ascontiguousarray(vectors)
    heads = b"".join(sha256(row.data).digest()[:8] for row in rows)
    return np.frombuffer(heads, dtype="<u8")


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
        return self._vectors[rows]


class StoredRows:
    """Vectors in a file, read when they are asked for and checked row by row.

    By read and not by mapping: a mapped file that is cut short, or whose disk fails, ends the process.
    """

    def __init__(self, path: Path, dimension: int, digests: Digests) -> None:
        self.path = path
        self.count = len(digests)
        self.digests = digests
        self._dimension = dimension

    def all(self) -> Vector:
        """Every row, shape `(count, dimension)`; `Damaged` where the file is."""
        return self.take(np.arange(self.count))

    def take(self, rows: Rows) -> Vector:
        """Some rows, shape `(len(rows), dimension)`; `Damaged` where the file is."""
        size = 4 * self._dimension
        try:
            with open(os.open(self.path, os.O_RDONLY | NO_LINK), "rb", buffering=0) as stream:
                if len(rows) > _WHOLE_SHARE * self.count:
                    content = _read(stream.fileno(), self.count * size, 0)
                    whole = np.frombuffer(content, dtype="<f4").reshape(self.count, self._dimension)
                    vectors = whole[rows]
                else:
                    content = b"".join(_read(stream.fileno(), size, row * size) for row in rows.tolist())
                    vectors = np.frombuffer(content, dtype="<f4").reshape(len(rows), self._dimension)
        except OSError as error:
            reason = f"{self.path.name} cannot be read: {error.strerror or error}"
            raise Damaged(self, reason, altered=False) from error
        if not np.array_equal(digests_of(vectors), self.digests[rows]):
            reason = f"{self.path.name} does not hold the vectors that were written to it"
            raise Damaged(self, reason, altered=True)
        return vectors


def _read(descriptor: int, size: int, offset: int) -> bytes:
    content = os.pread(descriptor, size, offset)
    while len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            raise OSError(f"it ends before byte {offset + size}")
        content += more
    return content
