"""`replay salvage`: what can still be read from a damaged history as a new, sound one."""

from __future__ import annotations

from typing import Any

import click

from replay.cli.common import command, database_argument
from replay.cli.failures import FOUND
from replay.cli.output import Column, print_json, say, table
from replay.cli.parameters import NEW_DATABASE
from replay.cli.progress import progress
from replay.cli.records import head_record
from replay.cli.text import counted, instant, path_text
from replay.salvage import salvage as salvage_history
from replay.salvaged import SalvageReport

__all__ = ["salvage"]

_SHOWN = 100
_GAPS = (
    Column("gap", style="red"),
    Column("position", style="cyan", right=True),
    Column("what", share=1, is_id=True),
)
_MEMORIES = (
    Column("memory", share=1, is_id=True),
    Column("lost versions", right=True),
    Column("not known from", style="cyan", right=True),
    Column("to", style="cyan", right=True),
)


@command("salvage", "Make a new database of what a damaged one still holds.")
@database_argument
@click.option("--to", metavar="NEW", type=NEW_DATABASE, required=True, help="The new database file; it must not exist.")
def salvage(database: str, to: str, as_json: bool) -> None:
    """Make NEW a sound history of whatever can still be read of DB, and report every gap.

    Works on a file too damaged to open, and never writes to it. Nobody may have it open. Where nothing is missing
    NEW has the same chain and head. After a gap the events are recorded anew, in order, at the next positions. Exits
    with 1 if there are gaps.
    """
    with progress("Salvaging") as report:
        done = salvage_history(database, to=to, progress=report)
    if as_json:
        print_json(_record(done))
    else:
        _tell(done)
    if not done.ok:
        raise click.exceptions.Exit(FOUND)


def _record(done: SalvageReport) -> dict[str, Any]:
    return {
        "ok": done.ok,
        "database": path_text(done.to),
        **head_record(done.head),
        "kept": done.kept,
        "last": None if done.last is None else head_record(done.last),
        "gaps": [
            {"kind": gap.kind, "position": gap.position, "last": gap.last, "message": gap.message} for gap in done.gaps
        ],
        "memories": [
            {
                "memory_id": gap.memory_id,
                "first_version": gap.first_version,
                "last_version": gap.last_version,
                "since": gap.since,
                "until": gap.until,
                "outdated": gap.outdated,
            }
            for gap in done.memories
        ],
        "moved": [{"first": run.first, "last": run.last, "to": run.to} for run in done.moved],
    }


def _tell(done: SalvageReport) -> None:
    rows = []
    for gap in done.gaps[:_SHOWN]:
        last = "" if gap.last is None else f"-{gap.last}"
        rows.append([gap.kind, "" if gap.position is None else f"{gap.position}{last}", gap.message])
    _table(_GAPS, rows, len(done.gaps))
    rows = [
        [
            gap.memory_id,
            f"{gap.first_version}-{gap.last_version}"
            if gap.last_version > gap.first_version
            else f"{gap.first_version}",
            f"{gap.since}",
            "now" if gap.until is None else f"{gap.until}",
        ]
        for gap in done.memories[:_SHOWN]
    ]
    _table(_MEMORIES, rows, len(done.memories))
    if done.moved:
        shown = ", ".join(_range(run.first, run.last, run.to) for run in done.moved[:_SHOWN])
        say(f"moved: {shown}{', ...' if len(done.moved) > _SHOWN else ''}")
    at = "" if done.head.recorded_at is None else f", as of {instant(done.head.recorded_at)}"
    kept = "" if done.kept == done.events else f", the first {done.kept:,} of them with the chain that they had"
    found = "nothing is missing" if done.ok else counted(len(done.gaps), "gap")
    say(
        f"{found}: {path_text(done.to)} holds {counted(done.events, 'event')}{at}{kept}",
        style="green" if done.ok else "red",
    )


def _table(columns: tuple[Column, ...], rows: list[list[str]], total: int) -> None:
    if table(columns, rows):
        if total > len(rows):
            say(f"... and {total - len(rows):,} more; --json lists them all")
        say("")


def _range(first: int, last: int, to: int) -> str:
    return f"{first} is {to} now" if first == last else f"{first}-{last} are {to}-{to + last - first} now"
