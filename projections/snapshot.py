"""An index's content to a checkpoint and back."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import faiss
import numpy as np

from eventstore import EventStore, IndexMismatch
from projections.checkpoints import Checkpoints, CheckpointWarning, DataFile, Manifest, SegmentFiles, Unusable, not_read
from projections.codes import Codes
from projections.content import Content
from projections.rows import RowTable
from projections.scoring import Floats, quick_norms
from projections.segments import Segment, Segments
from projections.structure_files import lists_of, read_structure, write_structure
from projections.vectors import Digests, HeldRows, StoredRows, VectorMemory, digests_of

__all__ = ["move_to_files", "newest_good", "write_snapshot"]

# A thread costs as much as reading some of this.
_BYTES_PER_THREAD = 2 * 2**20
# Metadata that take more a row are not kept in a checkpoint: the history has them.
_METADATA_BYTES = 4096
_MOST_THREADS = 4


class _Coded(NamedTuple):
    """A segment of so many rows that has codes."""

    vectors: DataFile
    codes: DataFile
    rows: int


def write_snapshot(checkpoints: Checkpoints, content: Content, head_hash: str) -> None:
    """Write a generation. Full segments that are on disk already are named again, not written again."""
    checkpoints.prepare()
    table, segments = content.table, content.segments
    assert segments is not None
    files = []
    for number, part in enumerate(segments.parts):
        written = content.written.get(number)
        if written is None or not all(checkpoints.has(file) for file in written.all):
            written = _write_segment(checkpoints, number, part)
        if written.metadata is None:
            written = _with_metadata(checkpoints, content, number, written)
        written = _with_lists(checkpoints, content, number, written)
        files.append(written)
        if part.full:
            content.written[number] = written
    manifest = Manifest(
        position=content.position,
        head_hash=head_hash,
        dimension=segments.dimension,
        rows=table.rows,
        segment_rows=segments.segment_rows,
        metric=segments.metric,
        faiss_version=faiss.__version__,
        table=checkpoints.write_data("rows", table.born.tobytes() + table.died.tobytes()),
        segments=files,
        structure=write_structure(checkpoints, content),
    )
    checkpoints.write_manifest(manifest)


def _with_metadata(checkpoints: Checkpoints, content: Content, number: int, written: SegmentFiles) -> SegmentFiles:
    start = number * content.segment_rows
    assert content.segments is not None
    metadata = content.metadata.packed(start, content.segments.parts[number].rows)
    if metadata is None or len(metadata) > _METADATA_BYTES * max(content.segments.parts[number].rows, 1):
        return written
    return written.model_copy(update={"metadata": checkpoints.write_data(f"metadata-{number:06d}", metadata)})


def _with_lists(checkpoints: Checkpoints, content: Content, number: int, written: SegmentFiles) -> SegmentFiles:
    lists = lists_of(content, number)
    if lists is not None and written.lists is None:
        file = checkpoints.write_data(f"lists-{number:06d}", lists)
        return written.model_copy(update={"lists": file})
    return written


def _write_segment(checkpoints: Checkpoints, number: int, part: Segment) -> SegmentFiles:
    vectors = np.ascontiguousarray(part.vectors.all())
    file = checkpoints.write_data(f"vectors-{number:06d}", vectors.data.cast("B"))
    coded = part.current_codes()
    if not coded.rows:
        return SegmentFiles(vectors=file)
    held = part.vectors
    digests = held.digests if isinstance(held, StoredRows) else digests_of(vectors[: coded.rows])
    packed = _packed(part.norms[: coded.rows], digests, coded)
    return SegmentFiles(vectors=file, codes=checkpoints.write_data(f"codes-{number:06d}", packed))


def _packed(norms: Floats, digests: Digests, codes: Codes) -> bytes:
    """Norms, digests, the codes' scale and bounds, and the codes of rows, one after the other."""
    bounds = np.array([codes.error, codes.size, codes.code_size])
    fields = (norms, digests, codes.scale, bounds)
    return b"".join(
        [
            *(np.asarray(field).astype(field.dtype.newbyteorder("<")).tobytes() for field in fields),
            codes.codes.tobytes(),
        ]
    )


def move_to_files(checkpoints: Checkpoints, content: Content, memory: VectorMemory) -> None:
    """Let go of the vectors of full segments that are on disk, the oldest first, until the others fit into memory."""
    if content.segments is None:
        return
    parts = content.segments.parts
    for number, part in enumerate(parts):
        vectors, files = part.vectors, content.written.get(number)
        if isinstance(vectors, HeldRows) and files is not None and checkpoints.has(files.vectors):
            path, held = checkpoints.directory / files.vectors.name, vectors.all()
            part.vectors = stored = StoredRows(path, content.segments.dimension, digests_of(held), memory, held)
            with contextlib.suppress(OSError):  # it is opened when it is read, then, and the history fills in
                stored.keep_open()
    memory.let_go([part.vectors for part in parts if isinstance(part.vectors, StoredRows)])


def newest_good(
    checkpoints: Checkpoints, store: EventStore, new: Callable[[], Content], memory: VectorMemory
) -> Content | None:
    """The newest generation that can be used; damaged ones, and ones ahead of the history, are set aside.

    It fills an empty `new()`. The vectors of full segments stay in their files until many of them are asked for.

    Raises:
        IndexMismatch: a sound generation is of another history or of another dimension.
    """
    paths = checkpoints.newest_first()
    while paths:
        path = paths.pop(0)
        try:
            manifest = checkpoints.read_manifest(path)
            # Asked anew each time: another process may have appended and checkpointed since.
            if manifest.position > (head := store.position):
                raise Unusable(f"it is at position {manifest.position} and the history ends at {head}")
            _require_same_history(checkpoints, manifest, store)
            content = new()
            if manifest.segment_rows != content.segment_rows:
                continue
            _read(checkpoints, manifest, content, memory)
            return content
        except Unusable as error:
            if os.path.lexists(path):
                checkpoints.set_aside(path, error)
            else:
                # Another process has written newer ones meanwhile, and removed this one with its files.
                paths = checkpoints.newest_first()
    return None


def _require_same_history(checkpoints: Checkpoints, manifest: Manifest, store: EventStore) -> None:
    remedy = "give another directory, or remove this one: the index is made again from the history"
    if store.dimension != manifest.dimension:
        raise IndexMismatch(
            f"the index in {checkpoints.directory} has dimension {manifest.dimension}, the history {store.path} has "
            f"{store.dimension}: {remedy}"
        )
    if store.hash_at(manifest.position) != manifest.head_hash:
        raise IndexMismatch(
            f"the index in {checkpoints.directory} is of another history than {store.path}: their hashes differ at "
            f"position {manifest.position}; {remedy}"
        )


def _read(checkpoints: Checkpoints, manifest: Manifest, content: Content, memory: VectorMemory) -> None:
    rows, size, metric, dimension = manifest.rows, manifest.segment_rows, content.metric, manifest.dimension
    # Before anything is read: a history of so many events has no more rows, and rows have so many bytes.
    if rows > manifest.position or manifest.table.size != 8 * rows or len(manifest.segments) != -(-rows // size):
        raise Unusable("its files do not have as many rows as it says")
    content.position = manifest.position
    content.table = _read_table(checkpoints, manifest)
    content.segments = segments = Segments(metric, dimension, size)
    for number, named in enumerate(manifest.segments):
        count = min(size, rows - number * size)
        files = _without_lost_metadata(checkpoints, named, count)
        content.metadata_files.append((files.metadata, count))
        if files.vectors.size != 4 * count * dimension:
            raise Unusable(f"{files.vectors.name} does not hold {count} vectors of dimension {dimension}")
        if count == size and metric == manifest.metric:
            content.written[number] = files
    coded = [
        _Coded(files.vectors, files.codes, min(size, rows - number * size))
        for number, files in enumerate(manifest.segments)
        if files.codes is not None and metric == manifest.metric
    ]
    restored = iter(_in_threads(lambda each: _read_coded(checkpoints, each, segments, memory), coded))
    for files in manifest.segments:
        if files.codes is not None and metric == manifest.metric:
            segments.parts.append(next(restored))
        else:
            segments.add(_vectors(checkpoints.read_data(files.vectors), dimension))
    read_structure(checkpoints, manifest, content)


def _in_threads(work: Callable[[_Coded], Segment], coded: Sequence[_Coded]) -> list[Segment]:
    """What `work` makes of each, in their order.

    Reading and hashing let go of the interpreter: as many go on at once as there are processors.
    """
    threads = min(os.cpu_count() or 1, _MOST_THREADS, sum(each.codes.size for each in coded) // _BYTES_PER_THREAD)
    if threads < 2:
        return [work(each) for each in coded]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, coded))


def _without_lost_metadata(checkpoints: Checkpoints, files: SegmentFiles, rows: int) -> SegmentFiles:
    """The files, but for metadata that are not there as they should be: the history has them.

    What they hold is read when a filter asks for it. Until then a later checkpoint names them again as they are.
    """
    if files.metadata is not None:
        try:
            if files.metadata.size > _METADATA_BYTES * max(rows, 1):
                raise Unusable(f"{files.metadata.name} is larger than any that is written")
            checkpoints.trusted(files.metadata)
        except Unusable as error:
            message = f"metadata in {checkpoints.directory} were passed over: {error}; the history fills in"
            warnings.warn(message, CheckpointWarning, stacklevel=6)
            return files.model_copy(update={"metadata": None})
    return files


def _read_table(checkpoints: Checkpoints, manifest: Manifest) -> RowTable:
    checkpoints.there(manifest.table)
    born, died = (np.empty(manifest.rows, dtype="<u4") for _ in range(2))
    checkpoints.read_into(manifest.table, [born.view(np.uint8), died.view(np.uint8)])
    if len(born) and (int(born[-1]) > manifest.position or (born[1:] <= born[:-1]).any()):
        raise Unusable("its rows are not in the order of positions")
    if (died <= born).any():
        raise Unusable("its rows end before they begin")
    return RowTable(born.astype(np.uint32, copy=False), died.astype(np.uint32, copy=False))


def _read_coded(checkpoints: Checkpoints, files: _Coded, segments: Segments, memory: VectorMemory) -> Segment:
    metric, dimension, capacity = segments.metric, segments.dimension, segments.segment_rows
    rows, rest = divmod(files.codes.size - 8 * (dimension + 3), 16 + dimension)
    # Of a segment that is not full, the newest rows may have none yet.
    if rest or not (1 if files.rows < capacity else capacity) <= rows <= files.rows:
        raise Unusable(f"{files.codes.name} does not hold the codes of {files.rows} vectors of dimension {dimension}")
    path = checkpoints.trusted(files.vectors)
    checkpoints.there(files.codes)
    # Read to where they stay: nothing is held twice, and nothing copied.
    numbers = np.empty(2 * rows + dimension + 3, dtype="<f8")
    restored = Codes.empty(metric, dimension, rows)
    checkpoints.read_into(files.codes, [numbers.view(np.uint8), restored.codes.reshape(-1)])
    norms, digests, scale = np.split(numbers[:-3], [rows, 2 * rows])
    restored.restore(scale, *numbers[-3:].tolist())
    if files.rows == capacity:
        stored = StoredRows(path, dimension, digests.view("<u8"), memory)
        try:
            stored.keep_open()
        except OSError as error:
            # A process that has no descriptor left opens the file whenever it reads from it.
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise not_read(path, error) from error
        return Segment.restored(metric, capacity, stored, norms, restored)
    held = HeldRows.of(_vectors(checkpoints.read_data(files.vectors), dimension))
    norms = np.concatenate([norms, quick_norms(held.all()[rows:])])
    return Segment.restored(metric, capacity, held, norms, restored)


def _vectors(content: bytes, dimension: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.frombuffer(content, dtype="<f4").reshape(-1, dimension)
