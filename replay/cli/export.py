"""`replay export`: a history as JSON lines."""

from __future__ import annotations

import click

from eventstore import AsOf, EventStore
from eventstore.queries import EventSelection
from eventstore.transfer import export_records
from replay.cli.common import as_of_option, command, database_argument
from replay.cli.output import print_json, print_line, say
from replay.cli.progress import progress
from replay.cli.text import counted, path_text

__all__ = ["export"]


@command("export", "Write the history as JSON lines.")
@database_argument
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@as_of_option(help="The history up to T.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
def export(database: str, file: str, as_of: AsOf, overwrite: bool, as_json: bool) -> None:
    """Write all events as JSON lines to FILE, or to standard output for "-".

    FILE appears whole or not at all. `replay import jsonl` makes the same history of it again.
    """
    with EventStore(database) as store:
        if file == "-":
            _to_stdout(store, as_of)
            return
        with progress("Exporting") as report:
            events = store.export(file, as_of=as_of, overwrite=overwrite, progress=report)
    if as_json:
        print_json({"file": path_text(file), "events": events})
    else:
        say(f"{path_text(file)} holds {counted(events, 'event')}")


def _to_stdout(store: EventStore, as_of: AsOf) -> None:
    # The library writes to a path, all at once; a pipe takes lines as they come.
    upto = store.position_at(as_of)
    with progress("Exporting") as report:
        for record in export_records(store._reader.salted_events(EventSelection(0, upto))):
            print_line(record)
            report(record["position"], upto)
