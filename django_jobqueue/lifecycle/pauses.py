"""Pause and resume: a queue, a task or a key. Jobs stay where they are, or come back, and lose nothing.

Workers leave out the lanes of a paused queue and the jobs of a paused task when they claim. Under a paused concurrency
key no job is admitted. The key of a rate limit is known only when the job has been claimed: so the layer that limits it
puts the job off, to the moment that stands in the pause's row.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from django.db.models.functions import Now

from ..compat import AnyTask
from ..dialects import get_dialect
from ..keys import shortened
from ..models import Job, Pause, Queue
from ..models.pause import HOLD, HOLD_LEFT, PauseKind
from . import notify
from .admit import give_back_slots
from .changes import RUN_NOW
from .claim import QueueSelector, in_order
from .route import write_route

CHUNK = 1000


def pause(
    queue_name: str | None = None,
    using: str | None = None,
    *,
    task: str | AnyTask | None = None,
    key: str | None = None,
) -> bool:
    """Stop workers from claiming jobs of a queue, of a task (or its path), or under the key of a concurrency or rate
    limit: pass one of the three. Running jobs continue. Return False if it was paused already.
    """
    using = write_route(using)
    if queue_name is not None and task is None and key is None:
        return get_dialect(using).transact(partial(_pause_queue, queue_name, using))
    paused = get_dialect(using).transact(partial(_pause, *_named(queue_name, task, key), using))
    if paused:
        if key is not None:
            give_back_slots(shortened(key), using)
        notify.look(using)  # busy workers look often enough; idle ones that are about to be told of jobs learn it now
    return paused


def resume(
    queue_name: str | None = None,
    using: str | None = None,
    *,
    task: str | AnyTask | None = None,
    key: str | None = None,
) -> bool:
    """Resume a paused queue, task or key: workers claim its jobs again. Return False if it was not paused."""
    using = write_route(using)
    if queue_name is not None and task is None and key is None:
        paused = Queue.objects.using(using).filter(name=queue_name, paused_at__isnull=False)
        resumed = bool(get_dialect(using).again_after_collision(lambda: paused.update(paused_at=None)))
    else:
        resumed = _resume(*_named(queue_name, task, key), using)
    if resumed:
        notify.look(using)
    return resumed


def _named(queue_name: str | None, task: str | AnyTask | None, key: str | None) -> tuple[PauseKind, str]:
    """Kind and name of what is neither queue nor nothing. Raise ``TypeError`` or ``ValueError`` for anything else."""
    path: Any = getattr(task, "module_path", task)
    given = [name for name in (queue_name, path, key) if name is not None]
    if len(given) != 1 or not isinstance(given[0], str):
        raise TypeError("Name what to pause or resume: a queue, task= (a task or its path) or key=; one of them.")
    kind = PauseKind.KEY if path is None else PauseKind.TASK
    name: str = shortened(given[0]) if path is None else path
    if not 1 <= len(name) <= 255:
        raise ValueError(f"The name of a {kind} has 1 to 255 characters, not {len(name)}.")
    return kind, name


def _pause_queue(queue_name: str, using: str) -> bool:
    Queue.objects.using(using).get_or_create(name=queue_name)
    open_queue = Queue.objects.using(using).filter(name=queue_name, paused_at__isnull=True)
    return bool(open_queue.update(paused_at=Now()))


def _pause(kind: PauseKind, name: str, using: str) -> bool:
    pauses, key = Pause.objects.using(using), kind is PauseKind.KEY
    _, created = pauses.get_or_create(
        kind=kind, name=name, defaults={"paused_at": Now(), "held_until": Now() + HOLD if key else None}
    )
    # held_until stays: jobs may still be on their way to it
    ended = pauses.filter(kind=kind, name=name, resumed_at__isnull=False)
    return created or bool(ended.update(paused_at=Now(), resumed_at=None))


def _resume(kind: PauseKind, name: str, using: str) -> bool:
    pause = Pause.objects.using(using).in_force().filter(kind=kind, name=name)
    again = get_dialect(using).again_after_collision
    if kind is PauseKind.TASK:
        return bool(again(lambda: pause._raw_delete(using)))
    if not again(lambda: pause.update(resumed_at=Now())):
        return False
    return_held(using)
    return True


# -- jobs under a key -----------------------------------------------------------------------------


def return_held(using: str) -> int:
    """Put in line what was put off for keys that have been resumed; how many.

    Also later, now and then: a job may have come to the pause before it was over, and be put off after. The pause's row
    goes when its moment has passed: then nobody is left that waits for it.
    """
    over = Pause.objects.using(using).filter(resumed_at__isnull=False)
    moments = list(over.values_list("held_until", flat=True))
    returned = sum(_return(moment, using) for moment in moments if moment is not None)
    if moments:
        # in one statement, whoever listens to deletions: it may have been paused again
        gone = over.filter(held_until__lt=Now() - HOLD_LEFT)
        get_dialect(using).again_after_collision(lambda: gone._raw_delete(using))
    if returned:
        notify.look(using)
    return returned


def _return(moment: datetime, using: str) -> int:
    held, returned = Job.objects.using(using).scheduled().filter(run_after=moment), 0
    while ids := list(held.order_by("run_after").values_list("pk", flat=True)[:CHUNK]):
        write = partial(RUN_NOW.write, held.filter(pk__in=sorted(ids)))
        returned += sum(get_dialect(using).transact_by_index(write))
    return returned


def paused_tasks(using: str) -> tuple[str, ...]:
    """The paths of the paused tasks, in order."""
    return tuple(Pause.objects.using(using).tasks().order_by("name").values_list("name", flat=True))


def held_back(selector: QueueSelector, using: str) -> list[str]:
    """What is paused and has jobs to run in the queues that are selected: ``queue mail``, ``task shop.tasks.send``,
    ``key tenant-7``.

    Only the first jobs of each line are looked at.
    """
    closed = set(Queue.objects.using(using).filter(paused_at__isnull=False).values_list("name", flat=True))
    lanes = in_order(selector, get_dialect(using).lanes())
    paused, found = paused_tasks(using), set[str]()
    for lane in lanes if paused else []:
        if lane.queue_name not in closed:
            line = Job.objects.using(using).in_line().filter(queue_name=lane.queue_name, priority=lane.priority)
            found.update(line.order_by("place").values_list("task_path", flat=True)[:CHUNK])
    queues = sorted(closed.intersection(lane.queue_name for lane in lanes))
    tasks = [path for path in paused if path in found]
    keys = _keys_held_back(selector, using)
    return [*(f"queue {name}" for name in queues), *(f"task {path}" for path in tasks), *(f"key {key}" for key in keys)]


def _keys_held_back(selector: QueueSelector, using: str) -> list[str]:
    """The paused keys whose slots jobs wait for, or to whose moment jobs have been put off."""
    mine = Job.objects.using(using).filter(selector.condition)
    keys = Pause.objects.using(using).keys().order_by("name").values_list("name", "held_until")
    return [
        name
        for name, moment in keys
        if mine.waiting_for_slots().filter(concurrency_key=name).exists()
        or mine.scheduled().filter(run_after=moment).exists()
    ]
