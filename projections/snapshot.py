"""An index's rows to a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from eventstore import EventStore, IndexMismatch
from projections.checkpoints import Checkpoints, DataFile, Manifest, Unusable
from projections.rows import RowTable
from projections.scoring import Metric
from projections.segments import Segments

__all__ = ["Snapshot", "newest_good", "write_snapshot"]


@dataclass(slots=True)
class Snapshot:
    """An index's whole content at `position`. `written` has the data files of its full segments, by number."""

    position: int
    table: RowTable
    segments: Segments
    written: dict[int, DataFile]


def write_snapshot(checkpoints: Checkpoints, snapshot: Snapshot, head_hash: str) -> None:
    """Write a generation. Full segments that are on disk already are named again, not written again."""
    checkpoints.prepare()
    table, segments = snapshot.table, snapshot.segments
    files: list[DataFile] = []
    for number, part in enumerate(segments.parts):
        file = snapshot.written.get(number)
        if file is None or not checkpoints.has(file):
            file = checkpoints.write_data(f"segment-{number:06d}", part.vectors.data.cast("B"))
        files.append(file)
        if part.rows == segments.segment_rows:
            snapshot.written[number] = file
    manifest = Manifest(
        position=snapshot.position,
        head_hash=head_hash,
        dimension=segments.dimension,
        rows=table.rows,
        segment_rows=segments.segment_rows,
        metric=segments.metric,
        faiss_version=faiss.__version__,
        table=checkpoints.write_data("rows", table.born.tobytes() + table.died.tobytes()),
        segments=files,
    )
    checkpoints.write_manifest(manifest)


def newest_good(checkpoints: Checkpoints, store: EventStore, metric: Metric, segment_rows: int) -> Snapshot | None:
    """The newest generation that can be used; damaged ones, and ones ahead of the history, are set aside.

    Raises:
        IndexMismatch: a sound generation is of another history or of another dimension.
    """
    for path in checkpoints.newest_first():
        try:
            manifest = checkpoints.read_manifest(path)
            # Asked anew each time: another process may have appended and checkpointed since.
            if manifest.position > (head := store.position):
                raise Unusable(f"it is at position {manifest.position} and the history ends at {head}")
            _require_same_history(checkpoints, manifest, store)
            if manifest.segment_rows != segment_rows:
                continue
            return _read(checkpoints, manifest, metric)
        except Unusable as error:
            checkpoints.set_aside(path, error)
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


def _read(checkpoints: Checkpoints, manifest: Manifest, metric: Metric) -> Snapshot:
    rows, size = manifest.rows, manifest.segment_rows
    # Before anything is read: a history of so many events has no more rows, and rows have so many bytes.
    if rows > manifest.position or manifest.table.size != 8 * rows or len(manifest.segments) != -(-rows // size):
        raise Unusable("its files do not have as many rows as it says")
    numbers = np.frombuffer(checkpoints.read_data(manifest.table), dtype="<u4")
    born, died = numbers[:rows].copy(), numbers[rows:].copy()
    if rows and (int(born[-1]) > manifest.position or (np.diff(born.astype(np.int64)) <= 0).any()):
        raise Unusable("its rows are not in the order of positions")
    if (died <= born).any():
        raise Unusable("its rows end before they begin")
    segments = Segments(metric, manifest.dimension, size)
    for number, file in enumerate(manifest.segments):
        count = min(size, rows - number * size)
        if file.size != 4 * count * manifest.dimension:
            raise Unusable(f"{file.name} does not hold {count} vectors of dimension {manifest.dimension}")
        content = np.frombuffer(checkpoints.read_data(file), dtype="<f4")
        segments.add(content.reshape(count, manifest.dimension))
    full = {number: file for number, file in enumerate(manifest.segments) if (number + 1) * size <= rows}
    return Snapshot(manifest.position, RowTable(born, died), segments, full)
