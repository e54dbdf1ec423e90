"""Parts: a statement for many rows that the database refuses for one of them is sent again for fewer and fewer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import isqrt
from typing import TypeVar

from ..dialects import get_dialect
from ..dialects.asking import Verdict, judge

#: Seconds before each further try over a connection that was cut. Who sends what the server hangs up on is cut off as
#: well, but each time.
PAUSES = (0.0, 0.1, 0.3, 0.6)
#: Characters; less than that no server hangs up on.
LARGE = 100_000
#: What the database refuses, and cannot be ended for it either, is passed over for so many seconds.
WHILE = 60.0

T = TypeVar("T")
R = TypeVar("R")


def in_parts(
    items: Sequence[T],
    do: Callable[[Sequence[T]], R],
    using: str,
    refused: Callable[[T, Exception], R],
    *,
    is_large: Callable[[T], bool] = lambda item: False,
    is_part: bool = False,
) -> list[R]:
    """``[do(items)]``; if the database refuses something among them, what ``do`` returns for the parts of them that it
    does not refuse, and ``refused`` for each item that it refuses alone.

    A connection that is cut again and again is blamed on the items that are ``is_large``, which the server may hang up
    on. Raise what ``do`` raises if there are none, while the database is away, and where the transaction of the caller
    cannot go on.
    """
    dialect = get_dialect(using)
    pauses = iter(PAUSES)
    tries_left = 0 if is_part and len(items) > 1 else 1
    while True:
        try:
            return [do(items)]
        except Exception as error:
            verdict = judge(error, dialect)
            if verdict is Verdict.AWAY:
                raise
            problem = error
        if verdict is Verdict.CUT:
            if (pause := next(pauses, None)) is not None:
                time.sleep(pause)
            elif any(map(is_large, items)):
                break
            else:
                raise problem
        elif verdict is Verdict.UNSURE and tries_left:
            tries_left -= 1
        else:
            break
    if len(items) == 1:
        return [refused(items[0], problem)]
    results: list[R] = []
    for part in parts(items):
        results += in_parts(part, do, using, refused, is_large=is_large, is_part=True)
    return results


def parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """About as many parts as each has items: what is refused alone is found by three statements that fail, not nine,
    and each may take as long as the server lets it.
    """
    size = max(1, isqrt(len(items)))
    for start in range(0, len(items), size):
        yield items[start : start + size]


class PassedOver:
    """What is left alone for a while, because the database refuses it: by its database and its name or number."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str | int], float] = {}

    def add(self, item: str | int, using: str) -> None:
        self._until[using, item] = time.monotonic() + WHILE

    def now(self, using: str) -> set[str | int]:
        if not self._until:
            return set()
        moment = time.monotonic()
        self._until = {key: until for key, until in self._until.items() if until > moment}
        return {item for where, item in self._until if where == using}
