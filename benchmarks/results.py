"""What a benchmark found, as a value and as JSON: rows of a table, series for plots, and where it was measured."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sqlite3
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import Race
from benchmarks.options import Options
from benchmarks.threads import LIMITS

__all__ = ["FORMAT", "Goal", "Result", "Row", "Series", "available_memory", "compared", "conditions", "load", "save"]

FORMAT = 1
_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    *("asof", "faiss-cpu", "numpy", "sqlite-utils", "orjson"),
    *("chromadb", "lancedb", "qdrant-edge-py", "sqlite-vec", "apsw", "mem0ai"),
)


@dataclass(frozen=True)
class Goal:
    """How a ratio is formed and what it should be.

    `rate`: theirs / ours in time, so how many times as fast; more is better. `time` and `size`: ours / theirs, and
    `amount`: a plain number; less is better.
    """

    kind: Literal["rate", "time", "size", "amount"]
    at_least: float | None = None
    aim: float | None = None

    def verdict(self, ratio: float) -> str:
        """`aim`, `reached` or `missed`; nothing where there is no goal."""

        def meets(limit: float) -> bool:
            return ratio >= limit if self.kind == "rate" else ratio <= limit

        if self.aim is not None and meets(self.aim):
            return "aim"
        if self.at_least is None:
            return ""
        return "reached" if meets(self.at_least) else "missed"


@dataclass(frozen=True)
class Row:
    """One comparison: two costs in `unit`, their ratio with the lowest and highest of the rounds, and its goal."""

    what: str
    against: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float
    low: float
    high: float
    kind: str
    at_least: float | None = None
    aim: float | None = None
    verdict: str = ""
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    plot: str
    line: str
    x_label: str
    y_label: str
    points: list[tuple[float, float]]
    log: bool = True


@dataclass
class Result:
    """All that one command found."""

    command: str
    title: str
    options: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    checked: str = ""
    rows: list[Row] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    cores: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compared(
    what: str,
    against: str,
    race: Race,
    ours: str,
    theirs: str,
    goal: Goal,
    *,
    per: int = 1,
    unit: str = "µs",
    note: str = "",
) -> Row:
    """A row out of a race: medians per `per` things, and the median of the ratios of the rounds."""
    scale = {"µs": 1e6, "ms": 1e3, "s": 1.0}[unit.split(" ")[0]] / per
    ratios = race.ratios(theirs, ours) if goal.kind == "rate" else race.ratios(ours, theirs)
    ratio = statistics.median(ratios)
    once = sorted({ours, theirs} & race.once)
    if once:
        note = f"{note}; " if note else ""
        note += f"{', '.join(once)}: one round only, it took too long"
    return Row(
        what, against, unit, race.median(ours) * scale, race.median(theirs) * scale, ratio,
        min(ratios), max(ratios), goal.kind, goal.at_least, goal.aim, goal.verdict(ratio), note,
    )  # fmt: skip


# Where and with what it was measured


def conditions(options: Options, scratch: Path) -> dict[str, Any]:
    """Machine, versions, date and commit."""
    commit, changed = _commit()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "changed": changed,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release().partition('-')[0]}",  # what follows is the build's name
            "file_system": _file_system(scratch),
        },
        "versions": {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version, **_versions()},
        "threads": {"limit": options.threads, **{name: os.environ.get(name) for name in LIMITS}},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit() -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "--short=12", "HEAD").strip(), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None  # not a checkout


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_memory() -> int:
    """Bytes that this process can have without swapping (Linux); all there is where that is not told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    """The type of file system that the scratch files are on: a sync to memory costs nothing."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
            _, mount, this, *_ = line.split()
            if (folder.resolve().is_relative_to(mount)) and len(mount) >= len(best):
                best, kind = mount, this
    return kind


# JSON


def save(result: Result, folder: Path) -> Path:
    """Write a result into a folder, under a name made of the command and its sizes; return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.command}-{result.options['rows']}-{result.options['dims']}.json"
    path.write_text(json.dumps({"format": FORMAT, **asdict(result)}, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def load(paths: Sequence[Path]) -> list[Result]:
    """Read results; `ValueError` names a file that is none."""
    results = []
    for path in paths:
        try:
            found = json.loads(path.read_text("utf-8"))
            if found.pop("format") != FORMAT:
                raise ValueError("another format")
            found["rows"] = [Row(**row) for row in found["rows"]]
            found["series"] = [
                Series(**{**line, "points": [(x, y) for x, y in line["points"]]}) for line in found["series"]
            ]
            results.append(Result(**found))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no result of `python -m benchmarks` ({error}): measure again") from error
    return results
