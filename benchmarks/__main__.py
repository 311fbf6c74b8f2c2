"""Measure asof against the floor: the same bytes through SQLite and FAISS with nothing around them.

Every figure is a ratio of two things done in turn, ours and the floor's, the median of the rounds; answers are compared
before times are reported. `python -m benchmarks --rows 20000 --rounds 5 --json out.json`
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from eventstore import EventStore
from projections import VectorIndex

DIMENSION = 384
BATCH = 1000


def clustered(rows: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors in 500 clusters: closer to embeddings than uniform ones, and there without a download."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(500, DIMENSION))
    vectors = centers[rng.integers(500, size=rows)] + rng.normal(scale=0.6, size=(rows, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def seconds(work: Callable[[], Any]) -> float:
    """How long a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], Any], floor: Callable[[], Any], rounds: int, per: int = 1) -> dict[str, Any]:
    """Both in turn, `rounds` times after one round that does not count."""
    pairs = [(seconds(ours), seconds(floor)) for _ in range(rounds + 1)][1:]
    return {
        "name": name,
        "ours_us": statistics.median(a for a, _ in pairs) / per * 1e6,
        "floor_us": statistics.median(b for _, b in pairs) / per * 1e6,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def ingest(folder: Path, vectors: Any, rounds: int) -> list[dict[str, Any]]:
    """Bulk appends and single ones, durable, against raw inserts of rows as large, with the same sync."""
    texts = [f"memory number {number} of a user who said something" for number in range(BATCH)]
    metadata = [{"user_id": f"user {number % 100}"} for number in range(BATCH)]
    with EventStore(folder / "ours.db") as store, VectorIndex(store, directory=folder / "none") as index:
        raw = sqlite3.connect(folder / "raw.db", isolation_level=None)
        for statement in ("page_size = 16384", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 4096"):
            raw.execute(f"PRAGMA {statement}")
        for name, sql in store._connections.fetch("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"):
            if not name.startswith(("sqlite_", "_sqlite", "idx_")):
                raw.execute(sql)
        flat = faiss.IndexFlatIP(DIMENSION)
        blobs, made = [vector.tobytes() for vector in vectors[:BATCH]], [0]

        def add_raw(count: int) -> None:
            start, made[0] = made[0], made[0] + count
            raw.execute("BEGIN IMMEDIATE")
            numbers = range(start + 1, start + count + 1)
            raw.executemany(
                f"INSERT INTO events VALUES ({','.join('?' * 18)})",
                [
                    (n, f"event {n:030}", f"memory {n:029}", 1, None, n, n, "ADD", n, *[None] * 7, b"d" * 32, b"h" * 32)
                    for n in numbers
                ],
            )
            raw.executemany(
                "INSERT INTO payloads VALUES (?, ?, ?, ?, ?)",
                [(n, b"s" * 16, texts[i], '{"user_id":"user 1"}', blobs[i]) for i, n in enumerate(numbers)],
            )
            raw.execute("COMMIT")
            flat.add(vectors[:count])

        def add_ours() -> None:
            store.add_many(texts, vectors=vectors[:BATCH], metadatas=metadata)
            index.catch_up()

        def add_one() -> None:
            store.add(texts[0], vector=vectors[0], metadata=metadata[0])
            index.catch_up()

        found = [
            compare("bulk append and index, 1,000 at a time", add_ours, lambda: add_raw(BATCH), rounds, BATCH),
            compare(
                "one append and index, durable",
                lambda: [add_one() for _ in range(20)],
                lambda: [add_raw(1) for _ in range(20)],
                rounds,
                20,
            ),
            compare(
                "16 threads adding one by one / one thread",
                lambda: burst(store, 16),
                lambda: burst(store, 1),
                rounds,
                160,
            ),
        ]
        raw.close()
    return found


def burst(store: EventStore, threads: int) -> None:
    """160 durable single adds by so many threads."""

    def work() -> None:
        for _ in range(160 // threads):
            store.add("x", vector=np.ones(DIMENSION))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def reading(folder: Path, vectors: Any, rounds: int) -> list[dict[str, Any]]:
    """Rebuild and search against a raw read and raw FAISS."""
    rows = len(vectors)
    queries = clustered(50, seed=1)
    with EventStore(folder / "read.db", durability="normal") as store:
        for start in range(0, rows, BATCH):
            some = vectors[start : start + BATCH]
            users = [{"user_id": f"user {number % 100}"} for number in range(len(some))]
            store.add_many([f"text {number}" for number in range(len(some))], vectors=some, metadatas=users)
        flat = faiss.IndexFlatIP(DIMENSION)

        def rebuild_raw() -> None:
            fresh = faiss.IndexFlatIP(DIMENSION)
            with sqlite3.connect(folder / "read.db") as raw:
                cursor = raw.execute("SELECT embedding FROM payloads ORDER BY seq")
                while blobs := cursor.fetchmany(BATCH):
                    block = np.frombuffer(b"".join(blob for (blob,) in blobs), dtype="<f4")
                    fresh.add(block.reshape(-1, DIMENSION))
            raw.close()

        def rebuild_ours() -> None:
            VectorIndex(store, directory=folder / "fresh").catch_up()

        found = [compare(f"rebuild from history, {rows:,} events", rebuild_ours, rebuild_raw, rounds, rows)]
        flat.add(vectors)
        index = VectorIndex(store, directory=folder / "search")
        for query in queries:
            scores, best = flat.search(query[None], 10)
            hits = index.search(query)
            assert [hit.position - 1 for hit in hits] == best[0].tolist() or np.allclose(
                [hit.score for hit in hits], scores[0], atol=1e-5
            )
        mask = np.zeros(rows, dtype=bool)
        mask[::100] = True
        bitmap = np.packbits(mask, bitorder="little")
        selected = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[call-arg, arg-type]
        half = faiss.IndexFlatIP(DIMENSION)
        half.add(vectors[: rows // 2])
        index.search(queries[0], filter={"user_id": "user 0"})

        def each(search: Callable[[Any], Any]) -> Callable[[], Any]:
            return lambda: [search(query) for query in queries]

        raw_search, count = each(lambda query: flat.search(query[None], 10)), len(queries)
        found += [
            compare(f"search now, {rows:,} rows", each(index.search), raw_search, rounds, count),
            compare(
                "search as of the middle / raw over as many rows",
                each(lambda query: index.search(query, as_of=rows // 2)),
                each(lambda query: half.search(query[None], 10)),
                rounds,
                count,
            ),
            compare(
                "search filtered to 1 % / raw with a ready bitmap",
                each(lambda query: index.search(query, filter={"user_id": "user 0"})),
                each(lambda query: flat.search(query[None], 10, params=selected)),
                rounds,
                count,
            ),
        ]
    return found


def main() -> None:
    """Run all and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows to rebuild and search (default 20000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not (default 5)")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)  # one query is one thread of work: more only wait for each other
    vectors = clustered(options.rows)
    with tempfile.TemporaryDirectory() as name:
        found = ingest(Path(name), vectors, options.rounds) + reading(Path(name), vectors, options.rounds)
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, FAISS {faiss.__version__},", end=" ")
    print(f"{os.cpu_count()} cores; medians of {options.rounds} rounds\n")
    print("| what | ours, µs each | floor, µs each | ours / floor |\n| --- | ---: | ---: | ---: |")
    for row in found:
        print(f"| {row['name']} | {row['ours_us']:.1f} | {row['floor_us']:.1f} | {row['ratio']:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
