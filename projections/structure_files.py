"""What an approximate index adds to a checkpoint: small files beside the segments', and one for a graph.

Whatever of it cannot be used is made again from the segments' codes: only time is lost.
"""

from __future__ import annotations

import warnings

import faiss
import numpy as np

from projections.checkpoints import (
    Checkpoints,
    CheckpointWarning,
    DataFile,
    Manifest,
    StructureFiles,
    Unusable,
)
from projections.content import Content
from projections.hnsw import Graph
from projections.ivf import MOST_LISTS, InvertedLists, ListNumbers
from projections.scoring import Floats

__all__ = ["lists_of", "read_structure", "write_structure"]

# To be raised whenever the same rows would make another structure.
_VERSION = 5
# Each is twice as long as all before it.
_MOST_BLOCKS = 40
# The links of a row, about 200 bytes, and what stands before the rows; each more than it can be.
_GRAPH_ROW, _GRAPH_HEAD = 1024, 2**20


def lists_of(content: Content, number: int) -> bytes | None:
    """The inverted lists of a segment's rows as they are written; None where it is in none."""
    structure = content.structure
    if not isinstance(structure, InvertedLists) or number >= len(structure.lists):
        return None
    lists = structure.lists[number]
    return None if lists is None else lists.astype("<u2").tobytes()


def write_structure(checkpoints: Checkpoints, content: Content) -> StructureFiles | None:
    """Write what is not in a segment's own files. What is there already is named again."""
    structure = content.structure
    if isinstance(structure, InvertedLists):
        middles = [
            checkpoints.write_data("middles", block.centroids.middles.astype("<f8").tobytes())
            for block in structure.blocks
        ]
        return StructureFiles(kind="ivf", version=_VERSION, first=structure.first, middles=middles)
    if structure is None or not structure.taken:
        return None
    if structure.written is None or not checkpoints.has(structure.written):
        structure.written = checkpoints.write_data("graph", structure.packed())
    return StructureFiles(kind="hnsw", version=_VERSION, first=1, graph=structure.written, taken=list(structure.taken))


def read_structure(checkpoints: Checkpoints, manifest: Manifest, content: Content) -> None:
    """Fill the content's structure from a checkpoint that has one like it, else from the segments that were read."""
    restored = False
    try:
        restored = _restored(checkpoints, manifest, content)
    except (Unusable, ValueError) as error:
        content.new_structure()
        warnings.warn(
            f"what makes search approximate in {checkpoints.directory} was passed over: {error}; it is made again",
            CheckpointWarning,
            stacklevel=5,
        )
    if not restored:
        for number, written in content.written.items():
            content.written[number] = written.model_copy(update={"lists": None})
    content.fold()


def _restored(checkpoints: Checkpoints, manifest: Manifest, content: Content) -> bool:
    files, structure, segments = manifest.structure, content.structure, content.segments
    if files is None or segments is None or structure is None:
        return False
    coded = segments.coded[: structure.ready(segments.rows)]
    # Codes are made for a metric, and a structure is made out of codes.
    if files.version != _VERSION or manifest.metric != content.metric:
        return False
    if isinstance(structure, InvertedLists) and (files.kind, files.first) == ("ivf", structure.first):
        if len(files.middles) > _MOST_BLOCKS:
            raise ValueError(f"{len(files.middles)} blocks of lists are more than there can be")
        middles = [_middles(checkpoints, file, manifest.dimension) for file in files.middles]
        rows = manifest.segment_rows
        lists = [_lists(checkpoints, each.lists, rows) for each in manifest.segments[: len(coded)]]
        structure.restore(coded, middles, lists)
        return True
    # What one FAISS has written is for that FAISS to read.
    if isinstance(structure, Graph) and files.graph is not None and manifest.faiss_version == faiss.__version__:
        rows = len(coded) * manifest.segment_rows
        if files.graph.size > rows * (manifest.dimension + _GRAPH_ROW) + _GRAPH_HEAD:
            raise Unusable(f"{files.graph.name} is larger than a graph of {rows} rows")
        structure.restore(coded, files.taken, checkpoints.read_data(files.graph))
        structure.written = files.graph
        return True
    return False


def _middles(checkpoints: Checkpoints, file: DataFile, dimension: int) -> Floats:
    # Before anything is read: a file may be as large as its manifest says, and a manifest be forged.
    if not file.size or file.size % (8 * dimension) or file.size > 8 * dimension * MOST_LISTS:
        raise Unusable(f"{file.name} does not hold centroids of dimension {dimension}")
    content = checkpoints.read_data(file)
    middles = np.frombuffer(content, dtype="<f8").reshape(-1, dimension).copy()
    if not np.isfinite(middles).all():
        raise Unusable(f"{file.name} holds centroids that are not finite")
    return middles


def _lists(checkpoints: Checkpoints, file: DataFile | None, rows: int) -> ListNumbers | None:
    if file is None:
        return None
    if file.size != 2 * rows:
        raise Unusable(f"{file.name} does not hold the lists of {rows} rows")
    return np.frombuffer(checkpoints.read_data(file), dtype="<u2").copy()
