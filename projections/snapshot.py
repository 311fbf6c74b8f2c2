"""An index's content to a checkpoint and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import faiss
import numpy as np

from eventstore import EventStore, IndexMismatch
from projections.checkpoints import Checkpoints, CheckpointWarning, DataFile, Manifest, SegmentFiles, Unusable
from projections.codes import Codes
from projections.content import Content
from projections.rows import RowTable
from projections.segments import Segment, Segments
from projections.structure_files import lists_of, read_structure, write_structure
from projections.vectors import Digests, HeldRows, StoredRows, digests_of

__all__ = ["move_to_files", "newest_good", "write_snapshot"]


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
    if metadata is None:
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
    codes = None
    if part.full:
        digests = part.vectors.digests if isinstance(part.vectors, StoredRows) else digests_of(vectors)
        codes = checkpoints.write_data(f"codes-{number:06d}", _packed(part, digests))
    return SegmentFiles(vectors=file, codes=codes)


def _packed(part: Segment, digests: Digests) -> bytes:
    """Norms, digests, the codes' scale and bounds, and the codes of a segment, one after the other."""
    codes = part.codes
    bounds = np.array([codes.error, codes.size, codes.code_size])
    fields = (part.norms, digests, codes.scale, bounds)
    return b"".join(
        [
            *(np.asarray(field).astype(field.dtype.newbyteorder("<")).tobytes() for field in fields),
            codes.codes.tobytes(),
        ]
    )


def move_to_files(checkpoints: Checkpoints, content: Content, vector_memory: int) -> None:
    """Let go of the vectors of full segments that are on disk, the oldest first, until the others fit into memory."""
    if content.segments is None:
        return
    dimension = content.segments.dimension
    held = [(n, part) for n, part in enumerate(content.segments.parts) if isinstance(part.vectors, HeldRows)]
    size = sum(4 * dimension * part.rows for _, part in held)
    for number, part in held:
        files = content.written.get(number)
        if size <= vector_memory:
            return
        if files is not None and checkpoints.has(files.vectors):
            vectors = part.vectors.all()
            part.vectors = StoredRows(checkpoints.directory / files.vectors.name, dimension, digests_of(vectors))
            size -= 4 * dimension * part.rows


def newest_good(
    checkpoints: Checkpoints, store: EventStore, new: Callable[[], Content], vector_memory: int
) -> Content | None:
    """The newest generation that can be used; damaged ones, and ones ahead of the history, are set aside.

    It fills an empty `new()`. Full vectors past `vector_memory` bytes stay in their files.

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
            _read(checkpoints, manifest, content, vector_memory)
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


def _read(checkpoints: Checkpoints, manifest: Manifest, content: Content, vector_memory: int) -> None:
    rows, size, metric = manifest.rows, manifest.segment_rows, content.metric
    # Before anything is read: a history of so many events has no more rows, and rows have so many bytes.
    if rows > manifest.position or manifest.table.size != 8 * rows or len(manifest.segments) != -(-rows // size):
        raise Unusable("its files do not have as many rows as it says")
    content.position = manifest.position
    content.table = _read_table(checkpoints, manifest)
    content.segments = segments = Segments(metric, manifest.dimension, size)
    for number, named in enumerate(manifest.segments):
        count = min(size, rows - number * size)
        files = _without_lost_metadata(checkpoints, named)
        content.metadata_files.append((files.metadata, count))
        if files.vectors.size != 4 * count * manifest.dimension:
            raise Unusable(f"{files.vectors.name} does not hold {count} vectors of dimension {manifest.dimension}")
        if files.codes is not None and count == size and metric == manifest.metric:
            vector_memory -= files.vectors.size
            part = _read_coded(checkpoints, files.vectors, files.codes, segments, in_memory=vector_memory >= 0)
            segments.parts.append(part)
        else:
            segments.add(_vectors(checkpoints.read_data(files.vectors), manifest.dimension))
        if count == size and metric == manifest.metric:
            content.written[number] = files
    read_structure(checkpoints, manifest, content)


def _without_lost_metadata(checkpoints: Checkpoints, files: SegmentFiles) -> SegmentFiles:
    """The files, but for metadata that are not there as they should be: the history has them.

    What they hold is read when a filter asks for it. Until then a later checkpoint names them again as they are.
    """
    if files.metadata is not None:
        try:
            checkpoints.look_at(files.metadata)
        except Unusable as error:
            message = f"metadata in {checkpoints.directory} were passed over: {error}; the history fills in"
            warnings.warn(message, CheckpointWarning, stacklevel=6)
            return files.model_copy(update={"metadata": None})
    return files


def _read_table(checkpoints: Checkpoints, manifest: Manifest) -> RowTable:
    rows = manifest.rows
    numbers = np.frombuffer(checkpoints.read_data(manifest.table), dtype="<u4")
    born, died = numbers[:rows].copy(), numbers[rows:].copy()
    if rows and (int(born[-1]) > manifest.position or (np.diff(born.astype(np.int64)) <= 0).any()):
        raise Unusable("its rows are not in the order of positions")
    if (died <= born).any():
        raise Unusable("its rows end before they begin")
    return RowTable(born, died)


def _read_coded(
    checkpoints: Checkpoints, vectors: DataFile, codes: DataFile, segments: Segments, *, in_memory: bool
) -> Segment:
    count, dimension = segments.segment_rows, segments.dimension
    if codes.size != 16 * count + 8 * (dimension + 3) + count * dimension:
        raise Unusable(f"{codes.name} does not hold the codes of {count} vectors of dimension {dimension}")
    packed = checkpoints.read_data(codes)
    numbers = np.frombuffer(packed, dtype="<f8", count=2 * count + dimension + 3)
    # Copies: a view would keep the whole file in memory.
    norms, digests = numbers[:count].copy(), numbers[count : 2 * count].view("<u8").copy()
    scale, bounds = numbers[2 * count : -3].copy(), numbers[-3:].tolist()
    coded = np.frombuffer(packed, dtype=np.uint8, offset=8 * len(numbers)).reshape(count, dimension)
    held = (
        HeldRows.of(_vectors(checkpoints.read_data(vectors), dimension))
        if in_memory
        else StoredRows(checkpoints.look_at(vectors), dimension, digests)
    )
    return Segment.restored(segments.metric, held, norms, Codes.restored(segments.metric, coded, scale, *bounds))


def _vectors(content: bytes, dimension: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.frombuffer(content, dtype="<f4").reshape(-1, dimension)
