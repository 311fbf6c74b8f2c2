"""`replay verify`: is the history what was recorded, and the index what follows from it?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any

import click

from eventstore import EventStore, Head
from projections import CheckpointWarning
from replay.cli.common import command, database_argument, index_option
from replay.cli.failures import FOUND
from replay.cli.opening import opened_index
from replay.cli.output import Column, print_json, say, table
from replay.cli.parameters import HEAD
from replay.cli.progress import progress
from replay.cli.records import head_record
from replay.cli.text import counted, instant, path_text
from replay.report import Report
from replay.verify import verify as verify_history

__all__ = ["verify"]

_SHOWN = 100
_COLUMNS = (
    Column("fault", style="red"),
    Column("position", style="cyan", right=True),
    Column("what", share=1, is_id=True),
)


class _IndexOnDisk:
    """The index, opened once the history has been checked: a history may be too damaged for it."""

    def __init__(self, database: str, directory: str | None) -> None:
        self._database = database
        self._directory = directory
        self.position: int | None = None
        self.directory: str | None = None

    def faults(self) -> list[str]:
        """Where its rows differ from the history's vectors, and checkpoints that could not be used."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            with EventStore(self._database) as store, opened_index(store, self._directory) as index:
                if index.position:
                    self.position, self.directory = index.position, path_text(index.directory or "")
                with progress("Comparing the index") as report:
                    differences = index.faults(report)
        return [str(warning.message) for warning in caught if warning.category is CheckpointWarning] + differences


@command("verify", "Check the history and the index.")
@database_argument
@click.option("--no-index", is_flag=True, help="Check the history only.")
@click.option(
    "--against",
    metavar="HEAD",
    type=HEAD,
    multiple=True,
    help="A head kept elsewhere that must be in the history: POSITION:HASH, or a file of `replay head --json`. "
    "May be repeated.",
)
@index_option
def verify(database: str, no_index: bool, against: Sequence[list[Head]], directory: str | None, as_json: bool) -> None:
    """Check every event, the chain of hashes and the index, and report every fault found.

    Works on a file too damaged to open. A cut tail, or a history written anew, shows only --against a head that
    was kept elsewhere. Exits with 1 if anything is wrong.
    """
    index = None if no_index else _IndexOnDisk(database, directory)
    with progress("Verifying") as report:
        found = verify_history(database, index, against=list(chain(*against)), progress=report)
    if as_json:
        print_json(_record(found, index))
    else:
        _tell(found, index, sum(map(len, against)))
    if not found.ok:
        raise click.exceptions.Exit(FOUND)


def _record(found: Report, index: _IndexOnDisk | None) -> dict[str, Any]:
    return {
        "ok": found.ok,
        "events": found.events,
        "payloads": found.payloads,
        "checked": found.checked,
        "head": None if found.head is None else head_record(found.head),
        "index": None
        if index is None or index.position is None
        else {"directory": index.directory, "position": index.position},
        "good": [{"first": first, "last": last} for first, last in found.good],
        "faults": [
            {"kind": fault.kind, "position": fault.position, "last": fault.last, "message": fault.message}
            for fault in found.faults
        ],
    }


def _tell(found: Report, index: _IndexOnDisk | None, heads: int) -> None:
    rows = []
    for fault in found.faults[:_SHOWN]:
        last = "" if fault.last is None else f"-{fault.last}"
        rows.append([fault.kind, "" if fault.position is None else f"{fault.position}{last}", fault.message])
    if table(_COLUMNS, rows):
        say("")
    if len(found.faults) > _SHOWN:
        say(f"... and {len(found.faults) - _SHOWN:,} more; --json lists them all")
    if not found.ok:
        runs = [f"{first}" if first == last else f"{first}-{last}" for first, last in found.good]
        more = ", ..." if len(runs) > _SHOWN else ""
        say(f"still good: {'events ' + ', '.join(runs[:_SHOWN]) + more if runs else 'no event'}")
    parts = [f"{counted(found.checked, 'event')} of {found.events:,} checked whole"]
    if heads:
        parts.append(f"against {counted(heads, 'head')}")
    if index is not None:
        parts.append("no index" if index.position is None else f"index at position {index.position}")
    if found.head is not None and found.head.recorded_at is not None:
        parts.append(f"head at position {found.head.position} ({instant(found.head.recorded_at)})")
    verdict = "ok" if found.ok else counted(len(found.faults), "fault")
    say(f"{verdict}: {', '.join(parts)}", style="green" if found.ok else "red")
