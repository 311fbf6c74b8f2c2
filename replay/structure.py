"""The checks of a database that are not about single events: its schema and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache

from sqlite_utils import Database

from eventstore.checks import MAX_DIMENSION
from eventstore.schema import apply_migrations
from eventstore.sqlite import sqlite3
from replay.damaged import attempt
from replay.report import Fault

__all__ = ["check_schema", "check_settings", "readable_tables"]

_OBJECTS = "SELECT name, type, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"
_STEPS = "SELECT name, applied_at FROM _sqlite_migrations WHERE migration_set = 'eventstore'"
_OWN = "_sqlite_migrations"  # sqlite-utils' own table, which may look otherwise in another version of it
_DIMENSIONS = frozenset(str(number) for number in range(1, MAX_DIMENSION + 1))
_REMEDY = "`replay recover` makes a database as it should be from the events"


@lru_cache(maxsize=1)
def _expected() -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Name -> type, table and SQL of everything in a new database; and the names of its schema steps."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply_migrations(Database(connection), ":memory:")
        objects = {name: tuple(rest) for name, *rest in connection.execute(_OBJECTS)}
        return objects, frozenset(name for name, _ in connection.execute(_STEPS))


def check_schema(connection: sqlite3.Connection) -> list[Fault]:
    """Compare what the database is made of with what a new one is made of."""
    rows, problem = attempt(connection, _OBJECTS)
    if problem is not None:
        return [Fault("schema", None, f"the schema cannot be read: {problem}")]
    expected, steps = _expected()
    found = {name: tuple(rest) for name, *rest in rows}
    faults = []
    for name, made in expected.items():
        if name not in found:
            faults.append(Fault("schema", None, f"the {made[0]} {name} is missing; {_REMEDY}"))
        elif found[name][: 2 if _OWN in name else 3] != made[: 2 if _OWN in name else 3]:
            faults.append(Fault("schema", None, f"the {made[0]} {name} is not as it was made; {_REMEDY}"))
    faults += [
        Fault("schema", None, f"the trigger {name} is not asof's: it may change what is recorded; drop it")
        for name, (type, *_) in found.items()
        if type == "trigger" and name not in expected
    ]
    return faults + _check_steps(connection, steps)


def _check_steps(connection: sqlite3.Connection, steps: frozenset[str]) -> list[Fault]:
    rows, problem = attempt(connection, _STEPS)
    columns, _ = attempt(connection, "SELECT name FROM pragma_table_info(?)", (_OWN,))
    if problem is None and not {("migration_set",), ("name",), ("applied_at",)} <= set(columns):
        problem = "its columns are not as they were made"
    if problem is not None:
        return [Fault("schema", None, f"the record of schema steps cannot be read: {problem}")]
    found = {name for name, _ in rows}
    faults = [f"the schema step {name} is missing from the record of steps" for name in sorted(steps - found)]
    faults += [f"the schema step {name!r} is not known to this asof: upgrade it" for name in found - steps]
    return [Fault("schema", None, message) for message in faults]


def readable_tables(
    connection: sqlite3.Connection, tables: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[Fault]]:
    """Which of the tables have just the columns that they should have.

    Any other, such as a view or a virtual table of that name, would be a way to make this program run what is
    written in the file, so it is not read.
    """
    readable, faults = [], []
    for table, columns in tables.items():
        kinds, _ = attempt(
            connection, "SELECT type, upper(substr(sql, 1, 20)) FROM sqlite_master WHERE name = ?", (table,)
        )
        found, _ = attempt(connection, "SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
        plain = len(kinds) == 1 and kinds[0][0] == "table" and "VIRTUAL" not in kinds[0][1]
        if plain and found == [(name, 0) for name in columns]:
            readable.append(table)
        else:
            faults.append(Fault("unreadable", None, f"the rows of {table} cannot be read: it is not the table it was"))
    return readable, faults


def check_settings(connection: sqlite3.Connection) -> tuple[int | None, list[Fault]]:
    """The dimension of the vectors and what is wrong with the settings.

    Where the settings and the first vectors disagree about the dimension it is that of the vectors, so that one
    wrong setting does not make every vector a fault.
    """
    rows, problem = attempt(connection, "SELECT key, value FROM settings NOT INDEXED")
    held = _dimension_of_vectors(connection)
    if problem is not None:
        return held, [Fault("settings", None, f"the settings cannot be read: {problem}")]
    settings: dict[str, str] = dict(rows)
    messages = [f"the setting {key!r} is not known" for key in settings if key not in ("dimension", "embedder")]
    said = settings.get("dimension")
    if said is not None and said not in _DIMENSIONS:
        messages.append(f"the dimension is {said!r}, not a number of 1 to {MAX_DIMENSION}")
    elif held is not None and said != str(held):
        messages.append(f"the dimension is {said or 'missing'}, and the vectors have {held} numbers")
    elif said is not None:
        held = int(said)
    return held, [Fault("settings", None, message) for message in messages]


def _dimension_of_vectors(connection: sqlite3.Connection) -> int | None:
    """The dimension on which the first vectors agree."""
    rows, _ = attempt(
        connection,
        "SELECT length(embedding) FROM payloads NOT INDEXED WHERE embedding IS NOT NULL ORDER BY seq LIMIT 3",
    )
    lengths = {length for (length,) in rows}
    return lengths.pop() // 4 or None if len(lengths) == 1 else None
