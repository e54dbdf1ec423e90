"""Portions: all the jobs that a filter leaves, a thousand at a time.

A filter may be anything, and no index answers it: so each kind of job is walked along the index that holds it, in the
index's own order, from one key to the next. A batch is what the filter leaves of a thousand rows. No statement reads
more than those, no list of all ids is ever made, and what is done to a batch is a transaction of its own.

The order is the index's one column and no more: for a second one PostgreSQL may sort all that is left of a line, page
after page, and so do the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

from django.db.models import F, QuerySet

from ..dialects import get_dialect
from ..models import Job
from ..models.fields import LAST, Tellable
from ..timing import aware

#: So many rows are looked at for one batch.
BATCH = 1000
#: The kinds of jobs that an index holds, in the words of ``stats.totals``, and what each is in order of.
ORDERS = {
    "ready": "place",
    "scheduled": "run_after",
    "waiting": "id",
    "running": "worker_id",
    "failed": "id",
    "cancelled": "id",
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
    jobs = jobs.order_by().using(using)  # its own route is that for reads, which may lead to a replica
    for kind in kinds:
        for line in _lines(kind, using):
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


def _walk(line: QuerySet[Job], column: str) -> Iterator[list[int]]:
    """The ids of the rows, page by page; what leaves the line meanwhile does not matter, nor what joins it behind."""
    read = get_dialect(line.db).transact_by_index
    value = Tellable(column) if column == "run_after" else F(column)
    rows = line.order_by(column).annotate(at=value).values_list("at", "id")
    page = read(lambda: list(rows[: BATCH + 1]))
    while len(page) > BATCH:
        last = page[-2][0]
        if isinstance(last, datetime) and aware(last) >= LAST:  # all these may be read as the same time, and are not
            yield from _chunks(line.filter(**{f"{column}__gte": last}).values_list("id", flat=True))
            return
        if page[-1][0] == last:  # the page ends among equals: they are read in one go, there are seldom many
            whole = [pk for value, pk in page if value != last]
            yield from _chunks([*whole, *line.filter(**{column: last}).values_list("id", flat=True)])
        else:
            yield sorted(pk for _, pk in page[:-1])
        further = rows.filter(**{f"{column}__gt": last})[: BATCH + 1]
        page = read(partial(list, further))
    if page:
        yield sorted(pk for _, pk in page)
