"""A process of its own that opens a store or rebuilds an index, and says how much memory that took."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
from pathlib import Path

from benchmarks.data import Data
from benchmarks.peers.asof import open_index
from eventstore import EventStore

__all__ = ["main"]


def resident() -> dict[str, int]:
    """Bytes of this process in memory: all of them, and those that no file backs (Linux)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # what was freed, but not given back, is not held
    if trim is not None:
        trim(0)
    found = {}
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            found[name] = int(rest.split()[0]) * 1024
    return found


def main(job: str, folder: str, dims: str, k: str, data: str) -> None:
    """Print, as JSON, the memory after a search, after one with a filter, and the most there was; and the answer."""
    home = Path(folder)
    source = Data(int(dims), folder=Path(data) if data else None)
    query = source.queries(1)[0]
    before = resident()
    with EventStore(home / "memories.db") as store:
        index = open_index(store, home / ("index" if job == "open" else "rebuilt"))
        index.catch_up()
        found = [int(hit.memory_id) for hit in index.search(query, int(k))]
        searched = resident()
        index.search(query, int(k), filter={"kind": "said"})
        filtered = resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"before": before, "searched": searched, "filtered": filtered, "peak": peak, "found": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
