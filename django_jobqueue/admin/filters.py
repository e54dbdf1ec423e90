"""The filters beside the list of jobs. Their choices come from small tables, and from the newest jobs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from django.contrib.admin import SimpleListFilter
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from .. import stats
from ..models import Batch, Worker
from .base import database
from .choices import CHOICES, known_queues, recent
from .kinds import KINDS
from .words import as_id

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet
    from django.http import HttpRequest

    from ..models import Job

Choices = list[tuple[str, Any]]


class StatusFilter(SimpleListFilter):
    """By kind, each with its number: a capped count, or an estimate."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        totals = stats.totals(database())
        return [(word, _with_count(kind.label, totals[word])) for word, kind in KINDS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        kind = KINDS.get(self.value() or "")
        return kind.of(queryset) if kind else queryset


def _with_count(label: Any, count: stats.Count | None) -> Any:
    return label if count is None else format_html('{} <span class="jq-count">{}</span>', label, count)


class QueueFilter(SimpleListFilter):
    title = _("queue")
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        names = {*known_queues(request), *(queue for _task, queue in recent(request)), *_given(self)}
        return [(name, name) for name in sorted(names)[:CHOICES]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(queue_name=self.value()) if self.value() else queryset


class TaskFilter(SimpleListFilter):
    """By task: by its name, or by its path where two tasks share a name."""

    title = _("task")
    parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        paths = {*(task for task, _queue in recent(request)), *_given(self)}
        names = Counter(map(_name, paths))
        choices = [(path, _name(path) if names[_name(path)] == 1 else path) for path in paths]
        return sorted(choices, key=lambda choice: choice[1])[:CHOICES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(task_path=self.value()) if self.value() else queryset


class LinkedFilter(SimpleListFilter):
    """By the number of a row of another model. Shown only where a link has led to it."""

    model: type[Model]

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        rows = self.model._default_manager.using(database()).filter(pk=self.number) if self.number else ()
        return [(str(row.pk), str(row)) for row in rows]

    def has_output(self) -> bool:
        return self.value() is not None

    @property
    def number(self) -> int:
        """The row's id; 0, which is nobody's, for what is no number."""
        return as_id(self.value() or "") or 0


class WorkerFilter(LinkedFilter):
    """The jobs that one worker is running."""

    title = _("worker")
    parameter_name = "worker"
    model = Worker

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if self.value() is None:
            return queryset
        # The index of the running jobs is the one that knows their workers.
        running = KINDS["running"].of(queryset)
        return running.filter(worker_id=self.number)


class BatchFilter(LinkedFilter):
    """The jobs of one batch."""

    title = _("batch")
    parameter_name = "batch"
    model = Batch

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset if self.value() is None else queryset.filter(batch_id=self.number)


def _given(chosen: SimpleListFilter) -> tuple[str, ...]:
    """What is filtered by now, which may be no choice any more."""
    value = chosen.value()
    return (value,) if value else ()


def _name(path: str) -> str:
    return path.rpartition(".")[2]
