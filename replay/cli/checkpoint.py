"""`replay checkpoint`: the index written to disk, so that opening it need not replay the history."""

from __future__ import annotations

from eventstore import EventStore
from replay.cli.common import command, database_argument, index_option
from replay.cli.opening import caught_up_index
from replay.cli.output import print_json, say
from replay.cli.text import path_text

__all__ = ["checkpoint"]


@command("checkpoint", "Write the index to disk.")
@database_argument
@index_option
def checkpoint(database: str, directory: str | None, as_json: bool) -> None:
    """Bring the index up to the history and write it to disk, so that the next search starts at once."""
    with EventStore(database) as store, caught_up_index(store, directory) as index:
        position = index.checkpoint()
        if as_json:
            print_json({"position": position, "directory": path_text(index.directory or "")})
        else:
            say(f"checkpoint at position {position}: {path_text(index.directory or '')}")
