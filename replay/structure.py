"""The checks of a database that are not about single events: its schema and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventstore.checks import MAX_DIMENSION
from eventstore.shape import expected_objects, expected_steps, is_plain
from eventstore.sqlite import sqlite3
from replay.damaged import attempt
from replay.report import Fault

__all__ = ["check_file", "check_schema", "check_settings", "is_plain_table", "readable_tables"]

_OBJECTS = "SELECT name, type, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"
_STEPS = "SELECT name, applied_at FROM _sqlite_migrations WHERE migration_set = 'eventstore'"
_OWN = "_sqlite_migrations"  # sqlite-utils' own table, which may look otherwise in another version of it
_DIMENSIONS = frozenset(str(number) for number in range(1, MAX_DIMENSION + 1))


def check_file(connection: sqlite3.Connection) -> list[Fault]:
    """What SQLite's own check of the file finds.

    It computes what stands in checks, indexes and generated columns. Nothing that is written in the file shall run;
    so where other tables have such, the history's own are checked by themselves.
    """
    rows, _ = attempt(
        connection, "SELECT name, lower(tbl_name), sql FROM sqlite_master WHERE type IN ('table', 'index')"
    )
    computing = [(name, table) for name, table, sql in rows if not is_plain(sql)]
    own = [name for name, (type, *_) in expected_objects().items() if type == "table"]
    if not computing:
        return _checked_by_sqlite(connection, "PRAGMA integrity_check(10000)")
    faults = [
        Fault("sqlite", None, f"SQLite was not asked to check the table {table}: {name} computes something")
        for name, table in computing
        if table in own
    ]
    for table in own:
        if table not in {found for _, found in computing}:
            faults += _checked_by_sqlite(connection, f"PRAGMA integrity_check({table})")
    return faults


def _checked_by_sqlite(connection: sqlite3.Connection, pragma: str) -> list[Fault]:
    found, problem = attempt(connection, pragma)
    if problem is not None:
        return [Fault("sqlite", None, f"SQLite cannot check the file: {problem}")]
    return [Fault("sqlite", None, " ".join(str(row[0]).split())) for row in found if row != ("ok",)]


def check_schema(connection: sqlite3.Connection) -> list[Fault]:
    """Compare what the database is made of with what a new one is made of."""
    rows, problem = attempt(connection, _OBJECTS)
    if problem is not None:
        return [Fault("schema", None, f"the schema cannot be read: {problem}")]
    expected, steps = expected_objects(), expected_steps()
    found = {name: tuple(rest) for name, *rest in rows}
    faults = []
    for name, made in expected.items():
        if name not in found:
            faults.append(Fault("schema", None, f"the {made[0]} {name} is missing; {_remedy(made[0])}"))
        elif found[name][: 2 if _OWN in name else 3] != made[: 2 if _OWN in name else 3]:
            faults.append(Fault("schema", None, f"the {made[0]} {name} is not as it was made; {_remedy(made[0])}"))
    faults += [
        Fault("schema", None, f"the trigger {name} is not asof's: it may change what is recorded; drop it")
        for name, (type, *_) in found.items()
        if type == "trigger" and name not in expected
    ]
    return faults + _check_steps(connection, steps)


def _remedy(kind: str) -> str:
    if kind == "table":
        return "a store does not open so: bring back a copy"
    return "`replay recover` makes a database as it should be from the events"


def _check_steps(connection: sqlite3.Connection, steps: frozenset[str]) -> list[Fault]:
    if not is_plain_table(connection, _OWN):
        return [Fault("schema", None, "the record of schema steps is not the table it was")]
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


def is_plain_table(connection: sqlite3.Connection, table: str) -> bool:
    """Whether the name is that of one table of rows: no view, no virtual table, nothing computed."""
    rows, _ = attempt(connection, "SELECT type, sql FROM sqlite_master WHERE lower(name) = ?", (table,))
    return len(rows) == 1 and rows[0][0] == "table" and is_plain(rows[0][1])


def readable_tables(
    connection: sqlite3.Connection, tables: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[Fault]]:
    """Which of the tables have just the columns that they should have.

    Any other, such as a view or a virtual table of that name, would be a way to make this program run what is
    written in the file, so it is not read.
    """
    readable, faults = [], []
    for table, columns in tables.items():
        found, _ = attempt(connection, "SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
        if is_plain_table(connection, table) and found == [(name, 0) for name in columns]:
            readable.append(table)
        else:
            faults.append(Fault("unreadable", None, f"the rows of {table} cannot be read: it is not the table it was"))
    return readable, faults


def check_settings(connection: sqlite3.Connection) -> tuple[int | None, list[Fault]]:
    """The dimension of the vectors and what is wrong with the settings.

    Where the settings and the first vectors disagree about the dimension it is that of the vectors, so that one
    wrong setting does not make every vector a fault.
    """
    held = _dimension_of_vectors(connection) if is_plain_table(connection, "payloads") else None
    if not is_plain_table(connection, "settings"):
        return held, [Fault("settings", None, "the settings cannot be read: they are not the table they were")]
    rows, problem = attempt(connection, "SELECT key, value FROM settings NOT INDEXED")
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
