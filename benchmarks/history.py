"""Reading the history back: rebuild, open, verify, and the state at an instant."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.check import require, require_exact
from benchmarks.floor import flat_of, hashed_rows, open_raw, read_hashed, read_vectors
from benchmarks.measure import Contender, race
from benchmarks.options import Options
from benchmarks.peers.asof import Asof, open_index
from benchmarks.results import Goal, Result, Row, Series, compared
from benchmarks.stores import blocks, data_of, new_store, write_store
from eventstore import EventStore, Update
from projections import VectorIndex
from replay import State, recover, state
from replay import rebuild as rebuild_index
from replay import verify as verify_history

__all__ = ["instant", "opening", "rebuild", "verify"]


def rebuild(options: Options) -> Result:
    """A Flat index made again from the history against a raw read and one FAISS add."""
    data, rows, dims = data_of(options), options.rows, options.dims
    queries = data.queries(options.queries)
    ours, floor = "asof", "raw read + FAISS add"
    written, floor_written = "asof, checkpoint too", "raw read + FAISS add + raw write"
    checked = "raw read + SHA-256 of the same bytes + FAISS add"
    with options.folder() as folder:
        path, directory = folder / "memories.db", folder / "index"
        write_store(path, data, rows)
        kept: dict[str, Any] = {}
        with EventStore(path) as store:

            def fresh() -> None:
                shutil.rmtree(directory, ignore_errors=True)

            def catch_up() -> VectorIndex:
                # As the floor does: all vectors in memory, no file.
                index = open_index(store, directory, vector_memory=8 * options.dims * rows)
                index.catch_up()
                return index

            def whole() -> VectorIndex:
                index = open_index(store, directory)
                rebuild_index(index)
                return index

            def complete(index: VectorIndex) -> None:
                require(index.position == rows, f"the index is at {index.position}, not {rows}")
                kept["ours"] = index  # the one before is let go without a checkpoint that nobody timed

            def read() -> Any:
                return flat_of(read_vectors(path, dims, rows), dims)

            def read_and_hash() -> Any:
                return flat_of(read_hashed(path, dims, rows), dims)

            def read_and_write() -> Any:
                matrix = read_vectors(path, dims, rows)
                with open(folder / "raw", "wb", buffering=0) as file:
                    file.write(matrix.data)
                    os.fsync(file.fileno())
                return flat_of(matrix, dims)

            times = race(
                [
                    Contender(ours, catch_up, before=fresh, after=complete),
                    Contender(floor, read, after=lambda flat: kept.update(floor=flat)),
                    Contender(checked, read_and_hash, after=lambda flat: kept.update(floor=flat)),
                    Contender(written, whole, before=fresh, after=complete),
                    Contender(floor_written, read_and_write, after=lambda flat: kept.update(floor=flat)),
                ],
                options.rounds,
            )
            flat, index = kept["floor"], kept["ours"]
            require(flat.ntotal == rows, f"the floor read {flat.ntotal} vectors, not {rows}")

            def found(query: Any) -> list[int]:
                return [int(hit.memory_id) for hit in index.search(query, options.k)]

            require_exact("the rebuilt index", found, flat, queries, options.k)
    result = Result("rebuild", "Rebuild from history", data=data.described, cores=times.cores)
    result.checked = f"the rebuilt index gives {len(queries)} exact answers"
    result.settings = {
        ours: "vectors stay in memory; a checkpoint on the way only after 30 seconds of work",
        written: "as shipped: a checkpoint on the way also where vectors take more than 512 MB",
        floor: "mapped, fetchmany",
        checked: "headers too; one digest a row",
    }
    what = f"rebuild of a Flat index, {rows:,} events; per event"
    result.rows = [
        compared(what, floor, times, ours, floor, Goal("time", 1.5, 1.15), per=rows),
        compared(what, checked, times, ours, checked, Goal("time"), per=rows),
        compared(f"{what}, checkpoint written", floor_written, times, written, floor_written, Goal("time"), per=rows),
    ]
    return result


def opening(options: Options) -> Result:
    """A store with a checkpoint, opened, until its first answer, against a read of the checkpoint's bytes."""
    data, rows, k = data_of(options), options.rows, options.k
    query = data.queries(1)[0]
    floor = "reading the checkpoint's bytes"
    with options.folder() as folder:
        path, directory = folder / "memories.db", folder / "index"
        write_store(path, data, rows)
        with EventStore(path) as store, open_index(store, directory) as index:
            index.catch_up()
            index.checkpoint()
            expected = index.search(query, k)
        flat = flat_of((data.vectors(low, high) for low, high in blocks(0, rows)), options.dims)
        require_exact("asof", lambda _: [int(hit.memory_id) for hit in expected], flat, query[None], k)
        files = _newest(directory)
        size = sum(file.stat().st_size for file in files)
        buffer = bytearray(max(file.stat().st_size for file in files))

        def opened() -> tuple[EventStore, VectorIndex, Any]:
            store = EventStore(path)
            index = open_index(store, directory)
            return store, index, index.search(query, k)

        def close(all_of_it: tuple[EventStore, VectorIndex, Any]) -> None:
            store, index, hits = all_of_it
            index.close()
            store.close()
            require(hits == expected, "a store that was opened again answers something else")

        def read() -> None:
            for file in files:
                with open(file, "rb", buffering=0) as stream:
                    while stream.readinto(buffer):
                        pass

        times = race([Contender("asof", opened, after=close), Contender(floor, read)], options.rounds)
    result = Result("open", "Opening with a checkpoint", data=data.described, cores=times.cores)
    result.checked = "the first answer is exact, and the same as before closing"
    result.settings = {
        "asof": Asof.settings,
        floor: f"{len(files)} files, {size:,} bytes; the files are cached by then",
    }
    what = f"opening {rows:,} memories with a checkpoint, until the first answer"
    result.rows = [compared(what, floor, times, "asof", floor, Goal("time", 2, 1.2), unit="ms")]
    return result


def _newest(directory: Path) -> list[Path]:
    """The newest manifest and the files that it names; all files where there is no manifest."""
    manifests = sorted(directory.glob("generation-*.json"))
    if not manifests:
        return [file for file in directory.iterdir() if file.is_file()]
    names: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, str):
            names.append(value)

    walk(json.loads(manifests[-1].read_text("utf-8")))
    return [manifests[-1], *sorted({directory / name for name in names if (directory / name).is_file()})]


def verify(options: Options) -> Result:
    """The chain and every payload verified against SHA-256 of the same bytes and a raw read."""
    data, rows = data_of(options), options.rows
    floor = "raw read + SHA-256 of the same bytes"
    with options.folder() as folder:
        path = folder / "memories.db"
        write_store(path, data, rows)

        def sound(report: Any) -> None:
            require(report.ok and report.events == rows, f"{report.events} events, faults {report.faults[:3]}")

        def hashed(count: int) -> None:
            require(count == 2 * rows, f"the floor read {count} rows, not a header and a payload of each event")

        contenders = [
            Contender("asof", lambda: verify_history(path), after=sound),
            Contender(floor, lambda: sum(len(rows) for _, rows in hashed_rows(path)), after=hashed),
        ]
        times = race(contenders, options.rounds)
        _damage(path)
        require(not verify_history(path).ok, "verify does not see a byte that was changed in a payload")
    result = Result("verify", "Verify", data=data.described, cores=times.cores)
    result.checked = "the report is sound and counts all events; with one byte of one embedding changed it is not"
    result.settings = {"asof": "replay.verify of the closed file", floor: "one digest a row, mapped, fetchmany"}
    what = f"verify, {rows:,} events; per event"
    result.rows = [compared(what, floor, times, "asof", floor, Goal("time", 2, 1.3), per=rows)]
    return result


def _damage(path: Path) -> None:
    """Change a byte of the first embedding, past the triggers."""
    with closing(open_raw(path)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        (blob,) = connection.execute("SELECT embedding FROM payloads WHERE seq = 1").fetchone()
        changed = bytes([blob[0] ^ 1]) + blob[1:]
        connection.execute("UPDATE payloads SET embedding = ? WHERE seq = 1", (changed,))
        for _, sql in triggers:
            connection.execute(sql)
        connection.execute("COMMIT")


# The state at an instant

_VERSIONS = 10
_SHORT = 100
_LENGTHS = (100, 1000, 10_000)


def instant(options: Options) -> Result:
    """What the state at an instant costs as payload bytes, headers, and live memories before it grow.

    `rows` memories have ten versions each before the instant and one after it; the last before it is short, the others
    before it are 100 bytes to 10 kB long. Then as many live memories with fewer versions; then fewer with as many.
    """
    data, rows = data_of(options), options.rows
    result = Result("instant", "State at an instant", data=data.described)
    histories = {("bytes", length): (rows, _VERSIONS, length) for length in _LENGTHS}
    histories |= {("events", versions): (rows, versions, _SHORT) for versions in (1, 3)}
    histories |= {("alive", part): (max(1, rows // part), _VERSIONS, _SHORT) for part in (10, 3)}
    stores: dict[Any, tuple[EventStore, int, int]] = {}
    with options.folder() as folder:
        contenders: list[Contender] = []
        try:
            for key, (alive, versions, length) in histories.items():
                store = new_store(folder / f"{key[0]}-{key[1]}.db")
                stores[key] = store, alive, _tell(store, data, alive, versions, length)
                vectors = data.vectors(0, alive)
                contenders.append(
                    Contender(
                        _label("state", key),
                        _state(store, alive * versions),
                        after=_right(alive, versions, vectors),
                    )
                )
            for length in _LENGTHS:
                contenders.append(_recovered(stores["bytes", length][0], rows * _VERSIONS, folder, length))
            times = race(contenders, options.rounds)
        finally:
            for store, *_ in stores.values():
                store.close()

    def ms(key: Any, what: str = "state") -> float:
        return times.median(_label(what, key)) * 1e3

    lengths = [("bytes", length) for length in _LENGTHS]
    before = [stores[key][2] / 2**20 for key in lengths]
    events = [("events", 1), ("events", 3), ("bytes", 100)]
    lively = [("alive", 10), ("alive", 3), ("bytes", 100)]
    y = "milliseconds"
    live = f"{rows:,} alive"
    result.series = [
        Series("instant-bytes", f"state, {live}", "MiB of payloads before the instant", y, _line(before, lengths, ms)),
        Series(
            "instant-bytes", f"recover, {live}", "MiB of payloads before the instant", y,
            [(x, ms(key, "recover")) for x, key in zip(before, lengths)],
        ),
        Series(
            "instant-events", f"state, {live}", "events before the instant", y,
            _line([rows * versions for versions in (1, 3, _VERSIONS)], events, ms),
        ),
        Series(
            "instant-alive", f"state, {_VERSIONS} versions each", "memories alive at the instant", y,
            _line([stores[key][1] for key in lively], lively, ms),
        ),
    ]  # fmt: skip
    result.cores, result.checked = times.cores, "each state has all memories, their last version, text and vector"
    short, long = _label("state", lengths[0]), _label("state", lengths[-1])
    result.rows = [
        compared(
            f"state of {live}, {before[-1]:,.1f} MiB of payloads before it", f"the same with {before[0]:,.1f} MiB",
            times, long, short, Goal("time"), unit="ms", note="1.0 where payloads before it cost nothing",
        )
    ]  # fmt: skip
    result.rows.append(_growth(times.median(long), times.median(short), before))
    result.settings = {
        "asof": "replay.state and replay.recover; recover copies the history, so it grows with its bytes"
    }
    return result


def _label(what: str, key: tuple[str, int]) -> str:
    return {
        "bytes": f"{what}, {key[1]:,} bytes each",
        "events": f"{what}, {key[1]} versions",
        "alive": f"{what}, 1/{key[1]} alive",
    }[key[0]]


def _growth(long: float, short: float, before: list[float]) -> Row:
    """How much the time grows for each time that the bytes do."""
    share = (long / short - 1) / (before[-1] / before[0] - 1)
    what, against = "extra time of a state for each doubling of payload bytes before it", "growth of the bytes"
    return Row(what, against, "share", share, 1.0, share, share, share, "amount", note="0 is the aim")


def _line(xs: list[Any], keys: list[Any], y: Callable[[Any], float]) -> list[tuple[float, float]]:
    return [(float(x), y(key)) for x, key in zip(xs, keys)]


def _tell(store: EventStore, data: Any, alive: int, versions: int, length: int) -> int:
    """Memories with so many versions, all but the last so long, and one more after; returns the bytes before that."""
    total = 0
    for version in range(1, versions + 2):
        size = length if version < versions else _SHORT
        for low, high in blocks(0, alive):
            texts = [f"{version} {row} ".ljust(size, "x") for row in range(low, high)]
            names, vectors = [f"{row:012}" for row in range(low, high)], data.vectors(low, high)
            total += sum(map(len, texts)) + vectors.nbytes if version <= versions else 0
            if version == 1:
                store.add_many(texts, vectors=vectors, memory_ids=names)
            else:
                store.append(
                    [
                        Update(memory_id=name, content=text, vector=vector)
                        for name, text, vector in zip(names, texts, vectors)
                    ]
                )
    return total


def _state(store: EventStore, position: int) -> Callable[[], State]:
    return lambda: state(store, position)


def _right(alive: int, versions: int, vectors: Any) -> Callable[[State], None]:
    def check(found: State) -> None:
        expected = [f"{versions} {row} ".ljust(_SHORT, "x") for row in range(alive)]
        got = {int(name): memory for name, memory in found.memories.items()}
        require(sorted(got) == list(range(alive)), f"the state has {len(got)} memories, not {alive}")
        # With one version only, it is the last, and so a short one.
        require([got[row].content for row in range(alive)] == expected, "the state has another version's text")
        require(all(memory.version == versions for memory in got.values()), "the state has another version")
        matrix = np.stack([found.vectors[f"{row:012}"] for row in range(alive)])
        require(np.array_equal(matrix, vectors), "the state has other vectors")

    return check


def _recovered(store: EventStore, position: int, folder: Path, length: int) -> Contender:
    target = folder / f"recovered-{length}.db"

    def right(head: Any) -> None:
        require(head.position == position and head == store.head_at(position), f"recover ended at {head.position}")

    return Contender(
        _label("recover", ("bytes", length)),
        lambda: recover(store, position, target),
        before=lambda: target.unlink(missing_ok=True),
        after=right,
    )
