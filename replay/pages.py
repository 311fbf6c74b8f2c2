"""The pages of a database file and of the log beside it, read as bytes: for files that SQLite does not open.

Nothing is written, locked or mapped. https://www.sqlite.org/fileformat2.html, sections 1.3, 1.5 and 1.6.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from eventstore.errors import AsofError, InvalidOperation, StorageError
from eventstore.schema import PAGE_SIZE
from replay.cells import INDEX_LEAF, TABLE_LEAF, Cell, local_length
from replay.wal import FRAME_HEADER, WAL_HEADER, Frames, read_frames

__all__ = ["Image", "PageFile", "opened_pages"]

_MAGIC = b"SQLite format 3\0"
_SIZES = tuple(1 << power for power in range(9, 17))
_KINDS = (0x02, 0x05, 0x0A, 0x0D)
_SAMPLED = 400  # pages looked at to find out how large they are
_LOOKED_AT = 512  # bytes of each
_LEAST_USABLE = 480
_IMAGES_KEPT = 64


class Image(NamedTuple):
    """The bytes of a page as the file has it, or the log; `header` is where the page's own header begins."""

    content: bytes
    header: int
    start: int
    in_log: bool


@contextlib.contextmanager
def opened_pages(path: str) -> Iterator[PageFile]:
    """The pages of a file that nobody may write to meanwhile.

    Raises:
        InvalidOperation: a store of this process has the file open. Closing a file drops every lock of the process
            on it (POSIX), so it is not even opened here.
        StorageError: the file cannot be read, or was written to while it was read.
    """
    real = os.path.realpath(path)
    try:
        _refuse_open(path, real)
        before = _versions(real)
        with contextlib.ExitStack() as stack:
            descriptors = []
            for name in (real, f"{real}-wal"):
                try:
                    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
                except FileNotFoundError:
                    if name == real:
                        raise
                    continue
                stack.callback(os.close, descriptor)
                descriptors.append(descriptor)
            yield PageFile(*descriptors)
        if _versions(real) != before:
            raise StorageError(f"{path} was written to while it was read: stop whatever has it open, and try again")
    except OSError as error:
        if isinstance(error, AsofError):
            raise
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _versions(real: str) -> list[tuple[int, int, int] | None]:
    found: list[tuple[int, int, int] | None] = []
    for name in (real, f"{real}-wal"):
        try:
            status = os.stat(name)
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return found


def _refuse_open(path: str, real: str) -> None:
    if os.name != "posix" or not os.path.isdir("/dev/fd"):
        return
    wanted = os.stat(real)
    for name in os.listdir("/dev/fd"):
        try:
            found = os.fstat(int(name))
        except OSError as error:
            if error.errno != errno.EBADF:  # that of the listing itself
                raise
            continue
        if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            raise InvalidOperation(f"{path} is open in this process: close its store first")


class PageFile:
    """The pages of a database, and the newest committed images in its log."""

    def __init__(self, descriptor: int, log: int | None = None) -> None:
        self._descriptor = descriptor
        self._log = log
        self.size = os.fstat(descriptor).st_size
        self._head = os.pread(descriptor, 100, 0)
        self.page_size = self._page_size_in_file()
        self.frames = Frames()
        if log is not None:
            self.frames = read_frames(log, os.fstat(log).st_size, self.page_size)
            self.page_size = self.frames.page_size or self.page_size
        # Images are asked for again and again: rows that follow each other are on the same page.
        self._image = lru_cache(maxsize=_IMAGES_KEPT)(self._read_image)

    @property
    def count(self) -> int:
        """How many pages the file has, a last one in part included; the log may hold more."""
        return -(-self.size // self.page_size)

    @property
    def capacity(self) -> int:
        """A number of bytes that file and log together do not hold."""
        return self.size + len(self.frames.pages) * self.page_size + 1

    @property
    def is_cut(self) -> bool:
        """Whether the file is shorter than its header says, or ends within a page."""
        said = int.from_bytes(self._head[28:32], "big")
        return self.size % self.page_size != 0 or (self.size < said * self.page_size and not self.frames.pages)

    def images(self) -> Iterator[Image]:
        """Every page of the file, then every page that the log holds."""
        for number in range(1, self.count + 1):
            yield self._image((number - 1) * self.page_size, False)
        for offset in self.frames.pages.values():
            yield self._image(offset, True)

    def is_superseded(self, image: Image) -> bool:
        """Whether the log has a newer image of this page."""
        return not image.in_log and image.start // self.page_size + 1 in self.frames.pages

    def image_at(self, offset: int, in_log: bool) -> tuple[Image, int]:
        """The page that a byte of the file or of the log belongs to, and where in the page it is."""
        if in_log:
            step = FRAME_HEADER + self.page_size
            start = WAL_HEADER + (offset - WAL_HEADER) // step * step + FRAME_HEADER
        else:
            start = offset // self.page_size * self.page_size
        return self._image(start, in_log), offset - start

    def records(self, image: Image, cell: Cell) -> Iterator[bytes]:
        """The record of a cell, in each way that its parts on other pages can be put together."""
        seen = set()
        for usable in self._usable_sizes():
            local = local_length(cell.length, usable)
            end = cell.record + local
            if local == cell.length:
                if end <= len(image.content):
                    yield image.content[cell.record : end]
                return
            for with_log in (True, False) if self.frames.pages else (False,):
                record = self._long_record(image.content, cell, local, usable, with_log)
                if record is not None and record not in seen:
                    seen.add(record)
                    yield record

    def _long_record(self, page: bytes, cell: Cell, local: int, usable: int, with_log: bool) -> bytes | None:
        if cell.length > self.capacity:
            return None
        at = cell.record + local
        parts = [page[cell.record : at]]
        missing = cell.length - local
        following = int.from_bytes(page[at : at + 4], "big")
        while missing > 0:  # ends: each page brings bytes, and a record is no longer than the file
            offset = self.frames.pages.get(following) if with_log else None
            in_log = offset is not None
            start = (following - 1) * self.page_size if offset is None else offset
            if not 0 <= start < (self.size if not in_log else start + 1):
                return None
            content = self._image(start, in_log).content
            part = content[4 : 4 + min(missing, usable - 4)]
            if not part:
                return None
            parts.append(part)
            missing -= len(part)
            following = int.from_bytes(content[:4], "big")
        return b"".join(parts)

    def _read_image(self, start: int, in_log: bool) -> Image:
        descriptor = self._log if in_log and self._log is not None else self._descriptor
        content = os.pread(descriptor, self.page_size, start)
        # A page that was cut off goes on with zeros: what is left of it is where it was.
        content = content.ljust(self.page_size, b"\0")
        first = content.startswith(_MAGIC) or (start == 0 and not in_log)
        return Image(content, 100 if first else 0, start, in_log)

    def _usable_sizes(self) -> tuple[int, ...]:
        reserved = self._head[20] if len(self._head) > 20 else 0
        with_reserve = self.page_size - reserved
        return (self.page_size, with_reserve) if reserved and with_reserve >= _LEAST_USABLE else (self.page_size,)

    def _page_size_in_file(self) -> int:
        """The size at which most pages look like pages; what the header says is believed where others are no better."""
        said = int.from_bytes(self._head[16:18], "big")
        said = 65536 if said == 1 else said
        sizes = [said, PAGE_SIZE, *_SIZES] if said in _SIZES else [PAGE_SIZE, *_SIZES]
        return max(sizes, key=self._plausible)

    def _plausible(self, size: int) -> int:
        """About how many pages of this size look like pages."""
        pages: int = self.size // size
        step = max(1, pages // _SAMPLED)
        found = (
            _is_page(os.pread(self._descriptor, min(size, _LOOKED_AT), number * size), size)
            for number in range(0, pages, step)
        )
        return int(step * sum(found))


def _is_page(page: bytes, size: int) -> bool:
    """Whether bytes can be the beginning of a page of a b-tree: of a kind that there is, its cells within the page."""
    if len(page) < 8 or page[0] not in _KINDS:
        return False
    free, cells, content = (int.from_bytes(page[at : at + 2], "big") for at in (1, 3, 5))
    header = 8 if page[0] in (TABLE_LEAF, INDEX_LEAF) else 12
    content = content or 65536
    if free >= size or not header + 2 * cells <= content <= size:
        return False
    ends = range(header, min(header + 2 * cells, len(page) - 1), 2)
    return all(content <= int.from_bytes(page[at : at + 2], "big") < size for at in ends)
