"""The SQLite of the store, for all who use it: that of pysqlite3 if it is installed, as sqlite-utils chooses, or else Python's own."""

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # sqlite-utils does not say that it exports it

__all__ = ["sqlite3"]
