"""The SQL that differs between databases, behind a handful of names (``base.Dialect``)."""

from __future__ import annotations

from functools import lru_cache

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .base import Dialect
from .mysql import MySQL
from .postgresql import PostgreSQL
from .records import ANY, Admitted, Drawn, Ending, Fields, Filter, Lane, Peek, Release, Success, Terms
from .sqlite import SQLite

__all__ = [
    "ANY",
    "Admitted",
    "Dialect",
    "Drawn",
    "Ending",
    "Fields",
    "Filter",
    "Lane",
    "Peek",
    "Release",
    "Success",
    "Terms",
    "get_dialect",
]

_DIALECTS: dict[str, type[Dialect]] = {dialect.name: dialect for dialect in (PostgreSQL, SQLite, MySQL)}


@lru_cache(maxsize=16)
def get_dialect(using: str) -> Dialect:
    """The dialect of the database with this alias. It holds no connection, so threads may share it."""
    vendor = connections[using].vendor
    if vendor not in _DIALECTS:
        raise ImproperlyConfigured(
            f"DATABASES[{using!r}] is a {vendor} database; jobs can be kept in {', '.join(sorted(_DIALECTS))}."
        )
    return _DIALECTS[vendor](using)
