"""sqlite-vec: a vector table inside SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import Vectors
from benchmarks.peers.peer import Metadata, Peer, needed


class SqliteVec(Peer):
    """One vec0 table with metadata columns and the text beside; driven through apsw.

    Many Pythons come with an sqlite3 that cannot load extensions; apsw always can.
    """

    name = "sqlite-vec"
    settings = (
        "vec0 by distance (exact), metadata columns, text as auxiliary column; through apsw; page size 16384, WAL, "
        "synchronous FULL, log folded at 64 MB, 64 MB cache: as asof has it"
    )
    durable = True

    def __init__(self, folder: Path, dims: int, *, approximate: bool = False) -> None:
        apsw, sqlite_vec = needed("apsw", "sqlite_vec")
        self._connection: Any = apsw.Connection(str(folder / "memories.db"))
        self._connection.enable_load_extension(True)
        self._connection.load_extension(sqlite_vec.loadable_path())
        self._connection.enable_load_extension(False)
        for pragma in (
            "page_size = 16384",
            "journal_mode = WAL",
            "synchronous = FULL",
            "wal_autocheckpoint = 4096",
            "cache_size = -65536",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(
            f"CREATE VIRTUAL TABLE memories USING vec0(id INTEGER PRIMARY KEY, vector FLOAT[{dims}] distance_metric=l2,"
            " user_id TEXT, topic TEXT, kind TEXT, +content TEXT)"
        )

    def add(self, start: int, vectors: Vectors, texts: Sequence[str], metadata: Metadata) -> None:
        with self._connection:
            self._connection.executemany(
                "INSERT INTO memories (id, vector, user_id, topic, kind, content) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (start + row, vector.tobytes(), keys["user_id"], keys["topic"], keys["kind"], text)
                    for row, (vector, text, keys) in enumerate(zip(vectors, texts, metadata))
                ),
            )

    def search(
        self, vector: Vectors, k: int, filter: dict[str, str] | None = None, effort: int | None = None
    ) -> list[int]:
        wanted = dict(filter or {})
        also = "".join(f" AND {key} = ?" for key in wanted)
        found = self._connection.execute(
            f"SELECT id, content, distance FROM memories WHERE vector MATCH ? AND k = ?{also} ORDER BY distance",
            (vector.tobytes(), k, *wanted.values()),
        )
        return [row[0] for row in found]

    def close(self) -> None:
        self._connection.close()
