"""The databases that queues are measured on: a fresh one for each measure, and what the server counts."""

from __future__ import annotations

from urllib.parse import urlsplit

from .base import Database, Look
from .mysql import MariaDB
from .postgresql import PostgreSQL
from .sqlite import SQLite

__all__ = ["Database", "Look", "at"]

KINDS: dict[str, type[Database]] = {
    "postgresql": PostgreSQL,
    "postgres": PostgreSQL,
    "mysql": MariaDB,
    "mariadb": MariaDB,
    "sqlite": SQLite,
}


def at(server: str) -> type[Database]:
    """The kind of database that the URL, or the word ``sqlite``, speaks of."""
    scheme = urlsplit(server).scheme or server
    if scheme not in KINDS:
        raise ValueError(f"{server}: not one of {', '.join(KINDS)}")
    return KINDS[scheme]
