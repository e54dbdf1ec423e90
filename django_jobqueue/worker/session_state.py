"""Session state: which statements leave something in a session of the database that a rollback does not undo.

Only the text of a statement is looked at. What a function of the database does inside is not seen.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

#: Longer texts are looked at each time: to keep them would take memory, and they do not come twice.
LONGEST_KEPT = 4000

_FLAGS = re.IGNORECASE | re.DOTALL | re.VERBOSE
#: What a statement may begin with, by vendor.
_BEGINNINGS = {
    "postgresql": r"""SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b) | (?:RESET|DISCARD|LISTEN|PREPARE|LOAD|DO|CALL)\b
        | DECLARE\b.*?\bWITH\s+HOLD\b | CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP""",
    "mysql": r"""(?:SET|USE|PREPARE|LOCK|HANDLER|FLUSH|CALL|BEGIN|START|XA)\b
        | CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY""",
    "sqlite": r"(?:ATTACH|DETACH)\b | CREATE\s+TEMP | PRAGMA\b[^;]*[=(]",
}
#: What may stand anywhere in one, by vendor; each behind a word that is quickly looked for.
_ANYWHERE = {
    "postgresql": {
        "advisory_lock": r"pg_(?:try_)?advisory_lock",
        "set_config": r"\bset_config\s*\((?![^()]*,\s*(?:true|'t(?:rue)?'|'on')\s*\))",
        "temp": r"\bINTO\s+(?:(?:LOCAL|GLOBAL)\s+)?TEMP | \bpg_temp\b",
        "setseed": "setseed",
        "dblink_connect": "dblink_connect",
    },
    "mysql": {"get_lock": r"\bGET_LOCK\s*\(", ":=": r"@`?\w+`?\s*:=", "into": r"\bINTO\s+@"},
    "sqlite": {"temp": r"\btemp\s*\."},
}


class _Signs:
    """What to look for in the statements of these vendors."""

    def __init__(self, *vendors: str) -> None:
        beginnings = "|".join(_BEGINNINGS[vendor] for vendor in vendors)
        self._beginning = re.compile(rf"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:{beginnings})", _FLAGS)
        self._anywhere = [
            (word, re.compile(pattern, _FLAGS)) for vendor in vendors for word, pattern in _ANYWHERE[vendor].items()
        ]

    def are_in(self, sql: str) -> bool:
        if self._beginning.match(sql):
            return True
        end = -1
        while (end := sql.find(";", end + 1)) >= 0:
            if self._beginning.match(sql, end + 1):
                return True
        lower = sql.lower()
        return any(word in lower and pattern.search(sql) for word, pattern in self._anywhere)


_SIGNS = {vendor: _Signs(vendor) for vendor in _BEGINNINGS}
#: A database that we do not know may speak like any of those that we do.
_ANY = _Signs(*_BEGINNINGS)


def changes_session(vendor: str, sql: Any) -> bool:
    """Might this statement leave something in its session? A statement whose text cannot be read might."""
    if not isinstance(sql, str):
        sql = _text_of(sql)
        if sql is None:
            return True
    return _search(vendor, sql) if len(sql) > LONGEST_KEPT else _search_once(vendor, sql)


def _search(vendor: str, sql: str) -> bool:
    return _SIGNS.get(vendor, _ANY).are_in(sql)


_search_once = lru_cache(maxsize=2048)(_search)


def _text_of(sql: Any) -> str | None:
    """The text of what the driver takes for a statement: bytes, or an object of psycopg's that composes one."""
    try:
        return sql.decode() if isinstance(sql, bytes) else str(sql.as_string(None))
    except Exception:
        return None
