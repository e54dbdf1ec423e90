"""Synchronise: keep the rows of schedules in step with the code, while several versions of the code are running.

A definition that no row has had yet is news, and taken over at once. Workers that have it in their code vouch for it,
again and again. One that the row has had before is that of an older release: it comes back only when nobody vouches
for the newer one any more. So a worker of the old release that starts anew in the middle of a deploy changes nothing,
and a rollback takes effect shortly after the last worker of the new release has gone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now

from ..compat import AnyTask
from ..dialects import get_dialect
from ..exceptions import UnknownTask
from ..logs import get_logger
from ..models import Schedule
from ..registry import declared_function, is_ours, resolve
from ..schedules import Entry, check_call
from ..task import JobTask, declared
from ..timing import aware
from .schedule import aliases_of, restart

logger = get_logger(__name__)

#: How long a worker's word for a definition holds, and with how much of that left it is given again.
VOUCHED, RENEW = timedelta(seconds=90), timedelta(seconds=50)
#: So many former definitions of a schedule are known.
FORMER = 20
#: Of a row that has been made and not defined yet.
NEW = "new"


@dataclass(frozen=True, slots=True)
class Definition:
    """A schedule as the code of this process has it."""

    name: str
    task: AnyTask
    entry: Entry

    @property
    def fingerprint(self) -> str:
        return self.entry.fingerprint(self.task.module_path)


def definitions(tasks: Iterable[AnyTask]) -> list[Definition]:
    """The schedules of the tasks, each under its name: the task's path, with a number from the second on."""
    found = []
    for task in tasks:
        for number, entry in enumerate(getattr(task, "schedule", ()), 1):
            name = entry.name or (task.module_path if number == 1 else f"{task.module_path} {number}")
            found.append(Definition(name, task, entry))
    return found


def definitions_for(using: str) -> dict[str, Definition]:
    """Those whose jobs are kept in this database, by name."""
    aliases = aliases_of(using)
    tasks = [task for task in tuple(declared.values()) if isinstance(task, JobTask) and task.backend in aliases]
    return {definition.name: definition for definition in definitions(tasks)}


def synchronise(using: str) -> frozenset[str]:
    """Bring the rows in step with this process's code; the names of its schedules. Safe to call from any number."""
    ours = definitions_for(using)
    known: Any = Schedule.objects.using(using).filter(~Q(fingerprint="") | Q(name__in=list(ours))).annotate(clock=Now())
    rows = {row.name: row for row in known}
    if new := sorted(ours.keys() - rows.keys()):
        made = [Schedule(name=name, task_path=ours[name].task.module_path, fingerprint=NEW) for name in new]
        get_dialect(using).transact(lambda: Schedule.objects.using(using).bulk_create(made, ignore_conflicts=True))
    for name in sorted(ours):
        if name not in rows or _is_news(rows[name], ours[name], rows[name].clock):
            _adopt(ours[name], using)
    for name in sorted(rows.keys() - ours.keys()):
        if _has_vanished(rows[name]):
            _drop(name, using)
    return frozenset(ours)


def _is_news(row: Schedule, definition: Definition, now: datetime) -> bool:
    """Does the row have to be written?"""
    if row.fingerprint != definition.fingerprint:
        return not (definition.fingerprint in row.former and _is_vouched_for(row, now))
    return row.vanished_at is not None or not _is_vouched_for(row, now + RENEW)


def _is_vouched_for(row: Schedule, now: datetime) -> bool:
    return row.vouched_until is not None and row.vouched_until > now


def _adopt(definition: Definition, using: str) -> None:
    def adopt() -> None:
        rows = Schedule.objects.using(using).filter(name=definition.name).select_for_update()
        row: Any = rows.annotate(clock=Now()).first()
        if row is None or not _is_news(row, definition, row.clock):
            return
        if not row.is_from_code:
            logger.error("Schedule %s was made in the admin; that of the same name in the code has no effect.", row)
            return
        returns, row.vanished_at = row.vanished_at is not None, None
        if row.fingerprint != definition.fingerprint:
            logger.info("Schedule %s: %s.", row, definition.entry)
            returns = _define(row, definition) or returns
        if returns:
            restart(row, aware(row.clock))
        row.vouched_until = row.clock + VOUCHED
        row.save(using=using, force_update=True)

    get_dialect(using).transact(adopt)


def _define(row: Schedule, definition: Definition) -> bool:
    """Write the definition into the row. Are its times others than before?"""
    task, entry = definition.task, definition.entry
    times = (row.spec, row.time_zone)
    row.former = [mark for mark in (*row.former, row.fingerprint) if mark not in (NEW, definition.fingerprint)][
        -FORMER:
    ]
    row.fingerprint = definition.fingerprint
    row.task_path, row.spec, row.time_zone = task.module_path, entry.timing.text, entry.timing.zone
    row.args, row.kwargs = check_call(
        declared_function(task),
        entry.args,
        entry.kwargs,
        takes_context=task.takes_context,
        own_layers=getattr(task, "middleware", ()),
    )
    row.jitter, row.overlap, row.catch_up = entry.jitter, entry.overlap, entry.catch_up
    row.queue_name, row.priority = entry.queue_name, entry.priority
    return times != (row.spec, row.time_zone)


def _has_vanished(row: Any) -> bool:
    """Did this project have the schedule, and has no worker it any more?"""
    return row.vanished_at is None and not _is_vouched_for(row, row.clock) and _would_be_here(row.task_path)


def _would_be_here(task_path: str) -> bool:
    """Other projects may keep their jobs in the same database: their schedules are no business of ours."""
    try:
        resolve(task_path)
    except UnknownTask as error:
        module = task_path.rpartition(".")[0]
        return module in sys.modules or (is_ours(module) and not _is_broken(module, error.__cause__))
    return True


def _is_broken(module: str, cause: BaseException | None) -> bool:
    """Is the module there, and cannot be imported? Then nothing is known of what it has."""
    if isinstance(cause, ModuleNotFoundError):
        return not f"{module}.".startswith(f"{cause.name}.")
    return cause is not None


def _drop(name: str, using: str) -> None:
    rows = Schedule.objects.using(using).from_code().filter(name=name, vanished_at=None, vouched_until__lt=Now())
    gone: dict[str, Any] = {"vanished_at": Now(), "next_run_at": None, "look_at": None, "queued_at": None}
    if get_dialect(using).again_after_collision(lambda: rows.update(**gone)):
        logger.warning("Schedule %s is no longer in the code; it enqueues nothing more.", name)
