"""The `sqlite3` module that sqlite-utils uses.

Where pysqlite3 is installed that is what it takes, silently, and its connections and errors are other classes.
"""

from sqlite_utils.db import sqlite3  # type: ignore[attr-defined]

__all__ = ["sqlite3"]
