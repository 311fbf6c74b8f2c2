"""`replay rebuild`: the index made again from the history alone."""

from __future__ import annotations

from eventstore import EventStore
from replay.cli.common import command, database_argument, index_option
from replay.cli.opening import opened_index
from replay.cli.output import print_json, say
from replay.cli.progress import progress
from replay.cli.text import counted, path_text
from replay.rebuild import rebuild as rebuild_index

__all__ = ["rebuild"]


@command("rebuild", "Make the index again from the history.")
@database_argument
@index_option
def rebuild(database: str, directory: str | None, as_json: bool) -> None:
    """Throw the index away and make it again from the history, with a checkpoint at the end.

    The history is only read, and a search meanwhile uses the older checkpoint.
    """
    with EventStore(database) as store, opened_index(store, directory) as index:
        with progress("Rebuilding") as report:
            position = rebuild_index(index, progress=report)
        if as_json:
            print_json({"position": position, "directory": path_text(index.directory or "")})
        else:
            say(f"rebuilt from {counted(position, 'event')}: {path_text(index.directory or '')}")
