"""Portions: all the jobs that a filter leaves, a thousand at a time.

A filter may be anything, and no index answers it: so each kind of job is walked along the index that holds it, in the
index's own order, from one key to the next. A batch is what the filter leaves of a thousand rows. No statement reads
more than those, no list of all ids is ever made, and what is done to a batch is a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from django.db.models import Q, QuerySet

from ..dialects import get_dialect
from ..models import Job

#: So many rows are looked at for one batch.
BATCH = 1000
#: The kinds of jobs that an index holds, in the words of ``stats.totals``, and what each is in order of.
ORDERS: dict[str, tuple[str, ...]] = {
    "ready": ("place", "id"),
    "scheduled": ("run_after", "id"),
    "waiting": ("id",),
    "running": ("worker_id", "id"),
    "failed": ("id",),
    "cancelled": ("id",),
}

Jobs = Iterable[int] | QuerySet[Job]


def portions(jobs: Jobs, using: str, kinds: Sequence[str]) -> Iterator[QuerySet[Job]]:
    """The jobs, by their numbers or as a queryset, as querysets of at most a thousand each; of the latter only these
    kinds. The numbers of a batch are fixed, its filter is asked anew whenever it is used.

    A job that came into being since the beginning is left out, or there might be no end.
    """
    if not isinstance(jobs, QuerySet):
        rows = Job.objects.using(using)
        yield from (rows.filter(pk__in=ids) for ids in _chunks(jobs))
        return
    jobs = jobs.order_by()
    for kind in kinds:
        for line in _lines(kind, jobs.db):
            yield from (jobs.filter(pk__in=ids) for ids in _walk(line, ORDERS[kind]))


def _chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    ids = iter(ids)
    while chunk := list(islice(ids, BATCH)):
        yield sorted(chunk)


def _lines(kind: str, using: str) -> Iterator[QuerySet[Job]]:
    """Rows that one index has side by side."""
    everything = Job.objects.using(using)
    newest = everything.order_by("-id").values_list("id", flat=True).first() or 0
    if kind == "ready":
        dialect = get_dialect(using)
        end = dialect.next_place()
        for queue_name, priority in dialect.lanes():
            line = everything.in_line().filter(queue_name=queue_name, priority=priority)
            yield line.filter(place__lte=end, id__lte=newest)
    elif kind == "scheduled":
        yield everything.scheduled().filter(id__lte=newest)
    else:
        yield everything.filter(status=kind.upper(), id__lte=newest)


def _walk(line: QuerySet[Job], order: tuple[str, ...]) -> Iterator[list[int]]:
    """The ids of the rows, page by page; what leaves the line meanwhile does not matter, nor what joins it behind."""
    rows = line.order_by(*order).values_list(*order)
    page: list[Any] = list(rows[:BATCH])
    while page:
        yield sorted(row[-1] for row in page)
        page = list(rows.filter(_behind(order, page[-1]))[:BATCH]) if len(page) == BATCH else []


def _behind(order: tuple[str, ...], last: tuple[Any, ...]) -> Q:
    """What comes after that key. The first column's own bound is what leads into the index."""
    if len(order) == 1:
        return Q(id__gt=last[0])
    name = order[0]
    further = Q(**{f"{name}__gt": last[0]}) | Q(**{name: last[0], "id__gt": last[1]})
    return Q(**{f"{name}__gte": last[0]}) & further
