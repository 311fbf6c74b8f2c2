"""What the imports share: their options, and what they say when they are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from eventstore import EventStore, ImportResult
from replay.cli.output import print_json, say
from replay.cli.parameters import EMBEDDER
from replay.cli.records import instant_text
from replay.cli.text import counted, instant, path_text

__all__ = ["import_options", "tell"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--source", metavar="NAME", help="What the events are marked with; the repository or file if absent."),
    click.option(
        "--embedder",
        metavar="NAME",
        type=EMBEDDER,
        help="What makes the vectors: MODULE:ATTRIBUTE of your own, or a built-in one such as hashing-256-v1.",
    ),
    click.option(
        "--accept-embedder-change",
        is_flag=True,
        help="Go on although STORE's vectors were made by an embedder of another name.",
    ),
)


def import_options(function: F) -> F:
    """The options that every import takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def tell(store: EventStore, result: ImportResult, as_json: bool, more: Mapping[str, Any]) -> None:
    """Say how many events came, and from when to when."""
    first, last = result.first_position, result.last_position
    begin = None if first is None else store.head_at(first).recorded_at
    end = None if last is None else store.head_at(last).recorded_at
    if as_json:
        print_json(
            {
                "imported": result.imported,
                "already_there": result.already_there,
                "first_position": first,
                "last_position": last,
                "first_recorded_at": instant_text(begin),
                "last_recorded_at": instant_text(end),
                **more,
            }
        )
        return
    path = path_text(store.path)
    there = f"; {counted(result.already_there, 'event')} there already" if result.already_there else ""
    if begin is None or end is None:
        say(f"nothing new for {path}, which ends at position {store.position}{there}")
        return
    span = f"at {instant(begin)}" if begin == end else f"from {instant(begin)} to {instant(end)}"
    say(f"imported {counted(result.imported, 'event')} into {path}, {span}, positions {first} to {last}{there}")
