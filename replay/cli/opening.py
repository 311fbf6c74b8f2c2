"""The store and the index that a command works on, and the embedder that it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from eventstore import AsOf, AsofError, EmbedderMismatch, EmbedderMissing, EventStore, Vector
from eventstore.embedders import Embedder, builtin_embedder, embed_texts, embedder_name
from projections import Metric, VectorIndex
from replay.cli.progress import progress

__all__ = ["caught_up_index", "importing_store", "opened_index", "query_vector", "recorded_embedder"]

_HOW = "name yours with --embedder MODULE:ATTRIBUTE"


@contextmanager
def opened_index(store: EventStore, directory: str | None, metric: Metric = "cosine") -> Iterator[VectorIndex]:
    """The store's index, as its newest checkpoint left it."""
    with VectorIndex(store, metric=metric, directory=directory) as index:
        yield index


@contextmanager
def caught_up_index(
    store: EventStore, directory: str | None, metric: Metric = "cosine", upto: AsOf = None
) -> Iterator[VectorIndex]:
    """The store's index, with everything up to an instant."""
    with opened_index(store, directory, metric) as index:
        with progress("Catching up") as report:
            index.catch_up(upto, progress=report)
        yield index


def query_vector(store: EventStore, text: str, given: Embedder | None) -> Vector:
    """The vector of a text to search for, by the embedder given or else the one that the store names.

    The store is not opened with it: that would record the name of an embedder that has recorded nothing.
    """
    recorded = store.embedder_name
    if given is not None and recorded not in (None, embedder_name(given)):
        raise EmbedderMismatch(
            f"{store.path} holds vectors of the embedder {recorded!r}, and {embedder_name(given)!r} was given: their "
            "vectors cannot be compared; give the first, or a vector of its making with --vector"
        )
    embedder = given if given is not None or recorded is None else builtin_embedder(recorded)
    if embedder is None:
        raise EmbedderMissing(f"{_lacking(store.path, recorded)} to search for text, or give a --vector")
    vector: Vector = embed_texts(embedder, [text], store.dimension)[0]
    return vector


def _lacking(path: str, recorded: str | None) -> str:
    if recorded is None:
        return f"{path} does not say which embedder its vectors are from: {_HOW}"
    return f"{path} holds vectors of the embedder {recorded!r}, which is not a built-in one: {_HOW}"


def recorded_embedder(path: str, *, new: Embedder | None, required: bool) -> Embedder | None:
    """The embedder to import into `path` with: the built-in one that it names, or `new` while it is empty.

    Raises:
        EmbedderMissing: there is none of these, and one is required.
    """
    if not os.path.exists(path):
        return new
    with EventStore(path) as store:
        recorded, is_empty = store.embedder_name, store.position == 0
    embedder = builtin_embedder(recorded) if recorded is not None else new if is_empty else None
    if embedder is None and required:
        raise EmbedderMissing(f"{_lacking(path, recorded)}; nothing was imported")
    return embedder


@contextmanager
def importing_store(path: str, embedder: Embedder | None, **options: Any) -> Iterator[EventStore]:
    """The store to import into; if it was not there and stays empty, because the import fails, it goes again."""
    existed = os.path.lexists(path)
    try:
        with EventStore(path, embedder=embedder, **options) as store:
            yield store
    except BaseException:
        if not existed and _is_empty_store(path):
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    os.unlink(path + suffix)
        raise


def _is_empty_store(path: str) -> bool:
    if not os.path.exists(path):
        return False
    try:
        with EventStore(path) as store:
            return store.position == 0
    except AsofError:
        return False
