"""`replay search`: the memories nearest to a text or vector, now or then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from eventstore import AsOf, EventStore
from eventstore.embedders import Embedder
from projections import Hit, Hits, Metric
from replay.cli.common import as_of_option, command, database_argument, index_option
from replay.cli.diff import when
from replay.cli.opening import caught_up_index, query_vector
from replay.cli.output import Cell, Column, print_json, say, table
from replay.cli.parameters import EMBEDDER, FILTER, VECTOR
from replay.cli.records import instant_text
from replay.cli.text import counted, instant, preview

__all__ = ["search"]

_COLUMNS = (
    Column("score", style="cyan", right=True),
    Column("memory", style="bold", share=3, is_id=True),
    Column("v", right=True),
    Column("since"),
    Column("content", share=4, lines=3),
)


@command("search", "Find memories by similarity, now or then.")
@database_argument
@click.argument("query", required=False)
@click.option("-k", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="How many to find.")
@as_of_option(help="Search the memories as they were as of T.")
@click.option("--filter", "filter_", metavar="JSON", type=FILTER, help='Only metadata that match: \'{"user": "a"}\'.')
@click.option("--min-score", metavar="SCORE", type=float, help="Leave out what scores lower.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "ip", "l2"]),
    default="cosine",
    show_default=True,
    help="Cosine, inner product, or minus the squared distance.",
)
@click.option("--vector", metavar="VECTOR", type=VECTOR, help="Search for a vector: a JSON list or a .npy file.")
@click.option(
    "--embedder",
    metavar="NAME",
    type=EMBEDDER,
    help="Your MODULE:ATTRIBUTE that embeds QUERY, where the history's is not built in.",
)
@index_option
def search(
    database: str,
    query: str | None,
    k: int,
    as_of: AsOf,
    filter_: dict[str, Any] | None,
    min_score: float | None,
    metric: Metric,
    vector: Any,
    embedder: Embedder | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Find the memories nearest to QUERY, a text, or to a vector, best first."""
    if (query is None) == (vector is None):
        raise click.UsageError("give QUERY or --vector, one of them", click.get_current_context())
    with EventStore(database) as store:
        position = store.position_at(as_of)
        if query is not None and store.dimension is not None:
            vector = query_vector(store, query, embedder)
        with caught_up_index(store, directory, metric, position) as index:
            hits: Hits = Hits([], position)
            if store.dimension is not None:
                hits = index.search(vector, k, filter=filter_, as_of=position, min_score=min_score)
        if as_json:
            print_json(_record(store, hits, metric))
            return
        if table(_COLUMNS, _rows(hits)):
            say("")
        total = counted(store.count(as_of=hits.position), "memory", "memories")
        kind = "" if hits.exact else ", approximate"
        say(f"{len(hits):,} of {total} as of {when(store, hits.position)}{kind}", style="dim")


def _record(store: EventStore, hits: Hits, metric: Metric) -> dict[str, Any]:
    return {
        "position": hits.position,
        "recorded_at": instant_text(store.head_at(hits.position).recorded_at),
        "metric": metric,
        "exact": hits.exact,
        "kind": hits.kind,
        "hits": [_hit_record(hit) for hit in hits],
    }


def _hit_record(hit: Hit) -> dict[str, Any]:
    return {
        "memory_id": hit.memory_id,
        "score": hit.score,
        "content": hit.content,
        "metadata": hit.metadata,
        "version": hit.version,
        "position": hit.position,
        "created_at": instant_text(hit.created_at),
        "updated_at": instant_text(hit.updated_at),
    }


def _rows(hits: Hits) -> Iterator[list[Cell]]:
    for hit in hits:
        yield [
            f"{hit.score:.4f}",
            hit.memory_id,
            str(hit.version),
            instant(hit.updated_at or hit.created_at),
            preview(hit.content, 240),
        ]
