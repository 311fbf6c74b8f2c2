"""The command line: one command for each table, `all`, and `report`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from benchmarks.options import Options

if TYPE_CHECKING:  # what these import starts threads, which are limited before
    from benchmarks.results import Result

__all__ = ["COMMANDS", "Command", "main", "parsed"]


@dataclass(frozen=True)
class Command:
    """A benchmark: the function that runs it, how many rows it takes unless told, and what it measures."""

    function: str
    rows: int
    help: str

    def run(self, options: Options) -> Result:
        """Run it."""
        module, _, name = self.function.partition(":")
        function: Callable[[Options], Result] = getattr(importlib.import_module(f"benchmarks.{module}"), name)
        return function(options)


COMMANDS = {
    "bulk": Command("ingest:bulk", 20_000, "bulk append and index, against executemany and FAISS add"),
    "bulk-peers": Command("ingest:bulk_peers", 20_000, "the same against the peers; rows are per round"),
    "one-add": Command("ingest:one_add", 100, "one durable add, against a raw one-row transaction; rows are per round"),
    "threads": Command("ingest:threads", 480, "16 threads adding one by one, against one; rows are per round"),
    "rebuild": Command("history:rebuild", 100_000, "an index from the history, against a raw read and FAISS add"),
    "instant": Command("history:instant", 1_000, "what the state at an instant grows with; rows are live memories"),
    "search": Command("search:exact", 20_000, "exact search now, against raw FAISS Flat"),
    "as-of": Command("search:as_of", 20_000, "search as of an instant, against search now over as many live rows"),
    "as-of-lance": Command("search:as_of_lance", 20_000, "the same, against LanceDB's checkout and search"),
    "filtered": Command("search:filtered", 100_000, "search among 1, 10, 50 %, against raw FAISS with a ready bitmap"),
    "approximate": Command("approximate:approximate", 100_000, "approximate search at a measured recall, best peer"),
    "approximate-small": Command("approximate:approximate_small", 20_000, "the same at 20,000: Qdrant Edge, Chroma"),
    "open": Command("history:opening", 100_000, "opening with a checkpoint until the first answer"),
    "read-your-writes": Command("ingest:read_your_writes", 100_000, "add one and search at once, against the peers"),
    "verify": Command("history:verify", 20_000, "verify, against SHA-256 of the same bytes and a raw read"),
    "disk": Command("sizes:disk", 20_000, "bytes on disk per event"),
    "memory": Command("sizes:memory", 200_000, "memory per live row beyond its vector"),
    "growth": Command("growth:growth", 0, "how cost grows, to --max events, in 384 and 1536 dimensions: for plots"),
}


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments; exits with help or an error as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What asof costs beside what its parts cost, and beside what a user would pick instead. Every "
        "figure is the median of rounds in which each contender ran in turn; answers are checked before.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = command.help.replace("%", "%%")  # argparse takes a help, and not a description, for a format
        _benchmark(commands.add_parser(name, help=text, description=command.help), command.rows)
    every = commands.add_parser("all", help="all of them, each at its own size unless --rows is given")
    _benchmark(every, None)
    every.add_argument("--but", nargs="+", default=[], choices=sorted(COMMANDS), help="leave these out")
    report = commands.add_parser("report", help="write results into docs/performance.md, with their plots")
    report.add_argument("results", nargs="+", type=Path, help="JSON files that the other commands wrote")
    report.add_argument("--page", type=Path, default=Path("docs/performance.md"), help="default: %(default)s")
    report.add_argument("--images", type=Path, help="where plots go (default: images/ beside the page)")
    return parser.parse_args(arguments)


def _benchmark(parser: argparse.ArgumentParser, rows: int | None) -> None:
    def positive(text: str) -> int:
        if (number := int(text)) < 1:
            raise argparse.ArgumentTypeError("at least 1")
        return number

    size = "each its own" if rows is None else f"{rows:,}"
    parser.add_argument("--rows", type=positive, default=rows, help=f"how many (default {size})")
    parser.add_argument("--dims", type=positive, default=384, help="dimensions of the vectors (default %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--queries", type=positive, default=100, help="searches per round (default %(default)s)")
    parser.add_argument("--k", type=positive, default=10, help="hits per search (default %(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of every library (default %(default)s)")
    parser.add_argument("--recall", type=float, default=0.95, help="wanted of approximate search (default %(default)s)")
    parser.add_argument("--max", type=positive, default=1_000_000, dest="most", help="growth: up to so many events")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default %(default)s)")
    parser.add_argument("--peers", nargs="*", help="only these peers; none: no peer (default: all)")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds of a first round: no second past it")
    parser.add_argument("--data", type=Path, help="folder of real data (default: ASOF_BENCH_DATA or ../shared/data)")
    parser.add_argument("--scratch", type=Path, help="folder on the disk to measure (default: the system's)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for JSON (default: %(default)s/)")


def main(arguments: Sequence[str]) -> int:
    """Run a command; print tables; the exit code is 1 where an answer was wrong."""
    given = parsed(arguments)
    if given.command == "report":
        return _report(given)
    names = [name for name in COMMANDS if name not in given.but] if given.command == "all" else [given.command]
    return max([_run(name, given) for name in names], default=0)


def _run(name: str, given: argparse.Namespace) -> int:
    from benchmarks.check import WrongAnswer
    from benchmarks.peers import NAMES
    from benchmarks.report import markdown
    from benchmarks.results import conditions, save
    from benchmarks.threads import limit_faiss

    unknown = set(given.peers or ()) - set(NAMES)
    if unknown:
        print(f"error: no peer is called {', '.join(sorted(unknown))}: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    options = Options(
        rows=given.rows or command.rows,
        peers=None if given.peers is None else tuple(given.peers),
        **{
            key: getattr(given, key)
            for key in Options.__dataclass_fields__
            if key not in ("rows", "peers")
        },
    )  # fmt: skip
    limit_faiss(options.threads)
    try:
        result = command.run(options)
    except WrongAnswer as error:
        print(f"error: {name}: {error}. No time is reported.", file=sys.stderr)
        return 1
    result.options = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(options).items()
        if key not in ("data", "scratch")  # paths of this machine
    }
    if name == "growth":
        result.options["rows"] = options.most
    result.conditions = conditions(options, options.scratch or Path(gettempdir()))
    path = save(result, given.out)
    print(f"{markdown([result])}\n\nwritten to {path}\n")
    return 0


def _report(given: argparse.Namespace) -> int:
    from benchmarks.report import write
    from benchmarks.results import load

    try:
        for line in write(load(given.results), given.page, given.images or given.page.parent / "images"):
            print(line)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
