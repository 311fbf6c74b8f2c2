"""The frames of a write-ahead log that hold what was committed: https://www.sqlite.org/fileformat2.html, section 4.

SQLite reads a log up to its first bad frame and forgets the rest. Here every frame is judged by itself: its checksum
goes on from the one that the frame before it says it has, so a damaged frame does not cost those after it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FRAME_HEADER", "WAL_HEADER", "Frames", "read_frames"]

WAL_HEADER = 32
FRAME_HEADER = 24
_MAGIC = 0x377F0682  # its last bit says that the checksums are of big-endian numbers


@dataclass(frozen=True, slots=True)
class Frames:
    """Where the pages are that a log holds: page number -> offset in the log of its newest committed image.

    `damaged` says how many frames of this log's own before the last commit are not what was written, `unfinished`
    how many after it: part of an append that was under way, or one that is damaged at its end.
    """

    page_size: int | None = None
    pages: dict[int, int] = field(default_factory=dict)
    damaged: int = 0
    unfinished: int = 0


def read_frames(descriptor: int, size: int, page_size: int) -> Frames:
    """The frames of a log; `page_size` is the database's, where the log's own header does not say it."""
    head = os.pread(descriptor, WAL_HEADER, 0)
    if len(head) < WAL_HEADER:
        return Frames()
    magic, _, said, _, salt1, salt2, sum1, sum2 = struct.unpack(">8I", head)
    order = ">u4" if magic == _MAGIC | 1 else "<u4"
    sound = magic & ~1 == _MAGIC and _checksum(head[:24], (0, 0), order) == (sum1, sum2) and _is_page_size(said)
    page_size = said if sound else page_size
    step = FRAME_HEADER + page_size
    before: tuple[int, int] | None = (sum1, sum2)
    salts = (salt1, salt2) if sound else None
    pages, pending = dict[int, int](), dict[int, int]()
    damaged = unfinished = foreign = 0
    for at in range(WAL_HEADER, size, step):
        frame = os.pread(descriptor, step, at)
        if len(frame) < FRAME_HEADER:
            unfinished += 1
            break
        number, commit, *own_salts, sum1, sum2 = struct.unpack(">6I", frame[:FRAME_HEADER])
        if salts is None:
            salts = (own_salts[0], own_salts[1])  # the log's header is damaged: its frames say them too
        after, before = before, (sum1, sum2)
        if tuple(own_salts) != salts:
            foreign += 1  # at the end: left from before the log was begun anew
            continue
        unfinished, foreign = unfinished + foreign, 0
        if len(frame) < step or _checksum(frame[:8] + frame[FRAME_HEADER:], after, order) != (sum1, sum2):
            unfinished += 1
            continue
        pending[number] = at + FRAME_HEADER
        if commit:
            pages.update(pending)
            pending.clear()
            damaged, unfinished = damaged + unfinished, 0
    return Frames(page_size if sound else None, pages, damaged, unfinished)


def _is_page_size(size: int) -> bool:
    return 512 <= size <= 65536 and size & (size - 1) == 0


def _checksum(content: bytes, before: tuple[int, int] | None, order: str) -> tuple[int, int] | None:
    """SQLite's checksum: s0 += x + s1; s1 += y + s0 for each pair of numbers, modulo 2**32.

    That is linear, so each pair counts by a factor that follows from its place alone.
    """
    if before is None:
        return None
    numbers = np.frombuffer(content, dtype=order).astype(np.uint64)
    first, second = _factors(len(numbers) // 2)
    x, y = numbers[0::2], numbers[1::2]
    (a, b), (c, d) = first, second
    s0, s1 = np.uint64(before[0]), np.uint64(before[1])
    # Products of numbers below 2**32 wrap around at 2**64, which leaves the lower 32 bits as they should be.
    with np.errstate(over="ignore"):
        low = (a[1:] * x).sum() + (b[1:] * y).sum() + _start(a[0], b[0], s0, s1)
        high = (c[1:] * x).sum() + (d[1:] * y).sum() + _start(c[0], d[0], s0, s1)
    return int(low) & 0xFFFFFFFF, int(high) & 0xFFFFFFFF


def _start(a: Any, b: Any, s0: Any, s1: Any) -> Any:
    """What the checksum before counts: as a pair (x, y) would that leaves s0 = x and s1 = x + y."""
    return a * s0 + b * (s1 - s0)


Factors = tuple[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]], ...]


@lru_cache(maxsize=8)
def _factors(pairs: int) -> Factors:
    """By what each pair counts in s0 and in s1; before them by what a pair before the first would."""
    rows = np.empty((4, pairs + 1), dtype=np.uint64)
    # A pair that is the last adds x to s0, and x + y to s1; each one after it maps (s0, s1) to (s0+s1, s0+2*s1).
    x0, x1, y0, y1 = 1, 1, 0, 1
    for at in range(pairs, -1, -1):
        rows[:, at] = x0, y0, x1, y1
        x0, x1 = (x0 + x1) & 0xFFFFFFFF, (x0 + 2 * x1) & 0xFFFFFFFF
        y0, y1 = (y0 + y1) & 0xFFFFFFFF, (y0 + 2 * y1) & 0xFFFFFFFF
    return (rows[0], rows[1]), (rows[2], rows[3])
