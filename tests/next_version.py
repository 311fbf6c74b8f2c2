"""A schema version after this one, for tests of migrations only: no release has it.

Its step does what real ones will have to: it adds a table and an index, and makes one of the tables anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from sqlite_utils import Migrations

from eventstore import schema

NEXT = schema.newest_version() + 1


def later(db: Any) -> None:
    """The step."""
    objects = {name: sql for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")}
    about_payloads = [name for name in objects if name.startswith("payloads_")]
    db.execute("CREATE TABLE later (seq INTEGER PRIMARY KEY, memory_id TEXT) STRICT")
    db.execute("INSERT INTO later SELECT seq, memory_id FROM events")
    db.execute("CREATE INDEX events_causation ON events (causation_id) WHERE causation_id IS NOT NULL")
    db.execute("DROP VIEW history")
    for trigger in about_payloads:
        db.execute(f"DROP TRIGGER {trigger}")
    db.execute("ALTER TABLE payloads RENAME TO payloads_before")
    db.execute(objects["payloads"].replace("salt BLOB NOT NULL", "salt BLOB NOT NULL DEFAULT x'00'"))
    db.execute("INSERT INTO payloads SELECT * FROM payloads_before ORDER BY seq")
    db.execute("DROP TABLE payloads_before")
    for name in ("history", *about_payloads):
        db.execute(objects[name])


@contextlib.contextmanager
def next_version(step: Callable[[Any], None] = later) -> Iterator[None]:
    """Until the end of the block this asof is one that has a further step of the schema."""
    with mock.patch.object(schema, "migrations", Migrations("eventstore")) as migrations:
        for known in _KNOWN:
            migrations(name=known.name)(known.fn)
        migrations(name=f"m{NEXT:03}_later")(step)
        yield


_KNOWN = list(schema.migrations._migrations)
