"""Schedule: enqueue the ticks of schedules whose time has come, each of them once; pause, resume, run now.

There is no leader. Whichever worker gets hold of a due row first enqueues its job and moves the row on, in one
transaction: so a tick is enqueued once, or not yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeVar

from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from ..conf import backend_aliases, config_of
from ..dialects import get_dialect
from ..exceptions import UnknownTask
from ..logs import get_logger
from ..models import Job, Schedule
from ..models.job import UNFINISHED
from ..outcomes import MESSAGE_LENGTH, storable
from ..registry import copy_of, resolve
from ..task import Call, JobTask, enqueue_many
from ..timing import aware, latest
from . import control
from .route import write_route

logger = get_logger(__name__)

T = TypeVar("T")

#: So many schedules are read at a look.
LOOK_LIMIT = 100
#: A tick that is no later than that was not missed, whatever the schedule says of missed ones.
ON_TIME = timedelta(seconds=5)
#: And where missed ones are left out, the latest is still enqueued within that time: a worker may be starting.
GRACE = timedelta(seconds=60)
#: How soon to look again whether the last job has ended, for a tick that waits for it.
RECHECK = timedelta(seconds=1)
#: What a schedule's job knows, among its options: the schedule's name, and the time that it was meant for.
SCHEDULE, SCHEDULED_FOR = "schedule", "scheduled_for"


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A schedule, and in how many seconds a worker has to look at it."""

    pk: int
    name: str
    is_from_code: bool
    seconds: float


def upcoming(using: str, within: float, leave: Collection[int] = ()) -> list[Upcoming]:
    """The schedules that come in so many seconds, the first one first, but for those in ``leave``.

    A plain read, and a cheap one.
    """
    near = Schedule.objects.using(using).filter(look_at__lte=Now() + timedelta(seconds=within))
    rows = near.exclude(pk__in=leave).order_by("look_at").annotate(clock=Now())
    found = rows.values_list("pk", "name", "fingerprint", "look_at", "clock")[:LOOK_LIMIT]
    return [Upcoming(pk, name, bool(mark), (at - now).total_seconds()) for pk, name, mark, at, now in found if at]


def fire(pk: int, using: str) -> list[int] | None:
    """Enqueue what is due of this schedule; the numbers of the jobs. None: nothing is due, or another one is at it.

    Safe to call from any number of processes at any time. Raise ``UnknownTask`` or whatever else prevents the enqueue:
    then nothing has happened, and the tick is still due.
    """
    return _with_row(pk, using, _fire, due=True)


def run_schedule_now(pk: int, using: str | None = None) -> int | None:
    """Enqueue the schedule's job now, even if the schedule is paused. Return the job's id, or None if a middleware
    dropped the job.

    The next tick is not changed. Raise ``Schedule.DoesNotExist``, or what ``enqueue`` raises.
    """
    using = write_route(using)

    def run(schedule: Schedule, now: datetime) -> int | None:
        return _enqueue(schedule, now, using)

    return _existing(pk, using, run)


def pause_schedule(pk: int, using: str | None = None) -> bool:
    """Pause a schedule. Return False if it was paused already. Raise ``Schedule.DoesNotExist``."""
    using = write_route(using)

    def pause(schedule: Schedule, now: datetime) -> bool:
        if schedule.is_paused:
            return False
        schedule.paused_at = _stored(now)
        schedule.next_run_at = schedule.look_at = schedule.queued_at = None
        return True

    return _existing(pk, using, pause)


def resume_schedule(pk: int, using: str | None = None) -> bool:
    """Resume a schedule with its first tick from now on; ticks during the pause do not count as missed.

    Return False if it was not paused. Raise ``Schedule.DoesNotExist``.
    """
    using = write_route(using)

    def resume(schedule: Schedule, now: datetime) -> bool:
        if not schedule.is_paused:
            return False
        schedule.paused_at = None
        restart(schedule, now)
        return True

    return _existing(pk, using, resume)


def retime_schedule(pk: int, using: str | None = None) -> None:
    """Compute the schedule's next tick from now, after its times were changed. Raise ``Schedule.DoesNotExist``."""
    using = write_route(using)
    _existing(pk, using, restart)


# -- the row --------------------------------------------------------------------------------------


def _existing(pk: int, using: str, do: Callable[[Schedule, datetime], T]) -> T:
    def known(schedule: Schedule, now: datetime, using: str) -> tuple[T]:
        return (do(schedule, now),)

    found = _with_row(pk, using, known)
    if found is None:
        raise Schedule.DoesNotExist(f"There is no schedule #{pk}.")
    return found[0]


def _with_row(pk: int, using: str, do: Callable[[Schedule, datetime, str], T], *, due: bool = False) -> T | None:
    """``do`` it with the row, which nobody else has meanwhile, and save the row. None: it is not there, or not ours."""

    def with_row() -> T | None:
        rows: QuerySet[Schedule] = Schedule.objects.using(using).filter(pk=pk)
        if due:
            rows = rows.filter(look_at__lte=Now()).select_for_update(skip_locked=True)
        else:
            rows = rows.select_for_update()
        schedule = rows.annotate(clock=Now()).first()
        if schedule is None:
            return None
        done = do(schedule, aware(schedule.clock), using)
        schedule.save(using=using, force_update=True)
        return done

    return get_dialect(using).transact(with_row)


def restart(schedule: Schedule, now: datetime) -> None:
    """Set the next run to the first tick after ``now``; skip earlier ticks."""
    schedule.queued_at, schedule.error = None, ""
    active = not (schedule.is_paused or schedule.vanished_at)
    _move_on(schedule, now, schedule.timing.after(now) if active else None)


def _move_on(schedule: Schedule, now: datetime, tick: datetime | None) -> None:
    schedule.next_run_at = schedule.look_at = None if tick is None else _stored(tick)
    if schedule.queued_at is not None:
        schedule.look_at = _stored(now + RECHECK if tick is None else min(tick, now + RECHECK))


# -- the ticks ------------------------------------------------------------------------------------


def _fire(schedule: Schedule, now: datetime, using: str) -> list[int]:
    jobs: list[int | None] = []
    if schedule.queued_at is not None and _last_has_ended(schedule, using):
        jobs.append(_enqueue(schedule, aware(schedule.queued_at), using))
        schedule.queued_at = None
    timing, anchor = schedule.timing, schedule.next_run_at and aware(schedule.next_run_at)
    if anchor is not None and anchor <= now:
        ticks = _worth_enqueuing(latest(timing, anchor, now, schedule.catch_up or 1), now, schedule)
        jobs += [_enqueue(schedule, tick, using) for tick in ticks if _may_run(schedule, tick, using)]
        _move_on(schedule, now, timing.after(now, anchor))
    else:
        _move_on(schedule, now, anchor)
    schedule.error = ""
    return [job for job in jobs if job is not None]


def _worth_enqueuing(ticks: list[datetime], now: datetime, schedule: Schedule) -> list[datetime]:
    """Of the ticks that are due, those that are on time, or that the schedule wants to be made up for."""
    on_time = sum(tick > now - ON_TIME for tick in ticks)
    wanted = schedule.catch_up or int(ticks[-1] > now - GRACE)
    left_out = max(0, len(ticks) - max(on_time, wanted))
    if left_out:
        logger.warning("Schedule %s has missed ticks; those up to %s are left out.", schedule, ticks[left_out - 1])
    return ticks[left_out:]


def _may_run(schedule: Schedule, tick: datetime, using: str) -> bool:
    """What the schedule says of a tick that comes while its last job is unfinished."""
    if schedule.overlap == Schedule.Overlap.ALLOW:
        return True
    # behind one that waits there is no place, also when the last job has ended this very moment
    if schedule.queued_at is None and _last_has_ended(schedule, using):
        return True
    if schedule.overlap == Schedule.Overlap.CANCEL:
        control.cancel([schedule.last_job_id or 0], using)
        return True
    if schedule.overlap == Schedule.Overlap.QUEUE and schedule.queued_at is None:
        schedule.queued_at = _stored(tick)
        return False
    schedule.skipped_at, schedule.skipped = _stored(tick), schedule.skipped + 1
    logger.info("Schedule %s skips %s: job #%s is unfinished.", schedule, tick, schedule.last_job_id)
    return False


def _last_has_ended(schedule: Schedule, using: str) -> bool:
    if schedule.last_job_id is None:
        return True
    return not Job.objects.using(using).filter(pk=schedule.last_job_id, status__in=UNFINISHED).exists()


def _enqueue(schedule: Schedule, tick: datetime, using: str) -> int | None:
    """Enqueue the job of one tick, as anybody else would; its number, None if a layer has left it out."""
    [result] = enqueue_many([call_of(schedule, tick, using)])
    schedule.last_run_at = _stored(tick)
    if not result.id:
        return None
    schedule.last_job_id = int(result.id)
    return schedule.last_job_id


def call_of(schedule: Schedule, tick: datetime, using: str) -> Call:
    """What is enqueued for the tick. Raise ``UnknownTask`` if this process knows no such task."""
    task = resolve(schedule.task_path)
    if not isinstance(task, JobTask) or task.backend not in aliases_of(using):
        raise UnknownTask(f"{schedule.task_path} keeps its jobs elsewhere.")
    told = {SCHEDULE: schedule.name, SCHEDULED_FOR: tick.astimezone(UTC).isoformat()}
    own = copy_of(
        task,
        given={**task.given, **told},
        queue_name=schedule.queue_name or task.queue_name,
        priority=task.priority if schedule.priority is None else schedule.priority,
        run_after=_stored(tick + _jitter(schedule, tick)) if schedule.jitter else None,
    )
    return Call(own, tuple(schedule.args), dict(schedule.kwargs))


def _jitter(schedule: Schedule, tick: datetime) -> timedelta:
    """The same for a tick whoever enqueues it, and another one for each tick."""
    return timedelta(seconds=Random(f"{schedule.name} {tick.timestamp()}").uniform(0, schedule.jitter))


def aliases_of(using: str) -> list[str]:
    """The entries of TASKS that are ours and keep their jobs in this database."""
    return [alias for alias in backend_aliases() if config_of(alias).database == using]


def note_failure(pk: int, error: Exception, using: str) -> None:
    """Say in the row why its tick could not be enqueued."""
    message = storable(f"{type(error).__name__}: {error}")[:MESSAGE_LENGTH]
    schedule = Schedule.objects.using(using).filter(pk=pk).exclude(error=message)
    get_dialect(using).again_after_collision(lambda: schedule.update(error=message))


# -- times as the row has them --------------------------------------------------------------------


def _stored(moment: datetime) -> datetime:
    return moment if settings.USE_TZ else timezone.make_naive(moment)
