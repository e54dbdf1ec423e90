"""Arrays as PostgreSQL writes them: psycopg adapts a list item by item, which takes longer than all else for a job."""

from __future__ import annotations

from collections.abc import Iterable


def array(items: Iterable[str]) -> str:
    return "{" + ",".join(items) + "}"


def quoted(text: str | None) -> str:
    return "NULL" if text is None else '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'
