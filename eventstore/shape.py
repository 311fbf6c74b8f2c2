"""What a database is made of, held against what a new one is made of, before anything of it is believed.

A schema is text in the file, and SQLite does what it says: a view in the place of a table can be without end, a
trigger can change what is recorded. So a store opens only where the tables are the ones that asof makes and no foreign
trigger stands on them. What reading and writing do not depend on, such as the view `history`, is for `replay verify`.
"""

from __future__ import annotations

import re
from contextlib import closing
from functools import lru_cache
from typing import Any

from sqlite_utils import Database

from eventstore import schema
from eventstore.errors import CorruptHistory
from eventstore.schema import apply_migrations, newest_version
from eventstore.sqlite import sqlite3

__all__ = ["SchemaObjects", "expected_objects", "expected_steps", "is_plain", "refuse_foreign_schema", "require_tables"]

SchemaObjects = dict[str, tuple[str, str, str | None]]
"""Name -> type, table and SQL."""

_OBJECTS = "SELECT name, type, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"
_LIBRARYS = "_sqlite_migrations"  # sqlite-utils' own table, which may look otherwise in another version of it
_COUNTERS = "sqlite_sequence"


_INDEX = re.compile(r"\s*CREATE\s+(UNIQUE\s+)?INDEX\b", re.IGNORECASE)
# Column names in parentheses, and perhaps that one of them is not null: as the ones of asof are.
_PLAIN_INDEX = re.compile(r"[^()]+\([^()]*\)(\s+WHERE\s+\w+\s+IS\s+NOT\s+NULL)?\s*", re.IGNORECASE)
_COMPUTING = re.compile(r"\b(CHECK|AS|GENERATED|VIRTUAL)\b", re.IGNORECASE)


def expected_objects() -> SchemaObjects:
    """Everything in a new database."""
    return _made_by(newest_version())


@lru_cache(maxsize=4)
def _made_by(version: int) -> SchemaObjects:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply_migrations(Database(connection), ":memory:")
        return _objects(connection)


def expected_steps() -> frozenset[str]:
    """The names of the schema steps that a new database has gone through."""
    return frozenset(migration.name for migration in schema.migrations._migrations)


def _objects(connection: Any) -> SchemaObjects:
    return {name: (type, table, sql) for name, type, table, sql in connection.execute(_OBJECTS)}


def refuse_foreign_schema(connection: Any, path: str) -> None:
    """Refuse what is no table where asof has one, and triggers on its tables that are not its own.

    To be asked before the first query: nothing but the catalogue is read. `CorruptHistory` names what it is.
    """
    expected = expected_objects()
    tables = {name for name, (type, *_) in expected.items() if type == "table"}
    for name, (type, table, sql) in _objects(connection).items():
        if not (isinstance(name, str) and isinstance(table, str) and isinstance(sql, str | None)):
            raise _damaged(path, f"the entry {name!r} of its catalogue is no text")
        if name.lower() in tables and (type != "table" or (sql or "").upper().startswith("CREATE VIRTUAL")):
            raise _damaged(path, f"{name} is no table of rows but a {type}")
        if type == "index" and table.lower() in tables and not is_plain(sql):
            raise _damaged(path, f"the index {name} on {table} computes something")
        if type == "trigger" and table.lower() in tables and expected.get(name) != (type, table, sql):
            raise _damaged(path, f"the trigger {name} on {table} is not asof's and may change what is recorded")


def require_tables(connection: Any, path: str) -> None:
    """Refuse a database, brought up to date, whose tables are not as asof makes them. `CorruptHistory` names it."""
    found = _objects(connection)
    for name, made in expected_objects().items():
        if made[0] == "table" and name not in (_LIBRARYS, _COUNTERS) and found.get(name) != made:
            raise _damaged(path, f"the table {name} is not as it was made")


def is_plain(sql: object) -> bool:
    """Whether a table or an index, by its SQL, is columns and nothing else: what computes would run when it is read."""
    if sql is None:
        return True  # an index that SQLite made for a key
    if not isinstance(sql, str):
        return False
    if _INDEX.match(sql):
        return _PLAIN_INDEX.fullmatch(sql) is not None
    return _COMPUTING.search(sql) is None


def _damaged(path: str, what: str) -> CorruptHistory:
    return CorruptHistory(f"the schema of {path} was changed: {what}; run `replay verify` to see what is still good")
