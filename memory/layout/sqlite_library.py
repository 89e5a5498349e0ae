"""The SQLite of the store, for all who use it: that of pysqlite3 if it is installed, or else Python's own, as sqlite-utils chooses."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        import pysqlite3 as sqlite3
    except ImportError:
        import sqlite3

__all__ = ["sqlite3"]
