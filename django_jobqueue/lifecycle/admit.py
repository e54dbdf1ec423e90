"""Admit: let jobs of a concurrency key come in line, no more of them than the key has slots.

Until then they wait: no claim sees them, however many they are. From then on until it runs no more a job has a slot,
for that is what its row says: in line or running. So there is nothing to give back, and nothing that could be forgotten
or given back twice, whatever dies. Who admits locks the key first, then counts, then lets in: of two who do so at once
the second one sees what the first one has done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping

from ..dialects import Lane, get_dialect
from ..exceptions import UnknownTask
from ..keys import Slots, limit_key, slots_of
from ..models import Job
from ..registry import resolve
from . import notify
from .claim import release

logger = logging.getLogger(__name__)

#: Tasks that jobs waited for slots of, in this process.
_tasks: set[str] = set()
#: When to warn again of those that this process does not know, by the monotonic clock.
_told: dict[tuple[str, str], float] = {}
#: After so many seconds.
TOLD_FOR = 3600.0

#: Who is sent to its key comes in line anew, which is the way to wait for a slot.
SOON = 0.001


def put_under_key(job: Job) -> None:
    """Give a job that is about to be saved its concurrency key; from now on it waits until it is admitted. It has none
    where its task's callable says so.

    Raise ``ValueError`` or ``TypeError`` for what makes no key of the call.
    """
    job.decode()
    job.concurrency_key = limit_key(job.limited_task, job, "concurrency_key")
    if job.concurrency_key is None:
        return
    if job.status == Job.Status.READY and job.place is not None:
        job.status = Job.Status.WAITING


def send_to_keys(keys: Mapping[Job, str], using: str) -> int:
    """Give back claimed jobs that were enqueued before their task had a limit, and let them wait under their keys; how
    many were still ours.
    """
    ids: dict[str, list[int]] = {}
    for job, key in keys.items():
        ids.setdefault(key, []).append(job.pk)
    tokens = {job.token for job in keys}
    for key, some in ids.items():
        Job.objects.using(using).filter(pk__in=some, token__in=tokens).update(concurrency_key=key)
    return release(keys, using, SOON)


def waiting_keys(using: str) -> Iterator[str]:
    """All keys whose slots jobs wait for."""
    dialect, behind = get_dialect(using), ""
    number = dialect.keys_at_once
    names = [""] * number
    while len(names) == number:
        names = dialect.waiting_keys(behind, number)
        yield from names
        behind = names[-1] if names else ""


def admit(keys: Iterable[str], using: str, floors: Mapping[Lane, int] | None = None) -> set[Lane]:
    """Let in what there are slots for; the lanes in which jobs are in line now.

    ``floors`` are the places from which the caller looks on: who is let in stands where its age puts it, but not below.
    Safe to call from any number of processes at any time.
    """
    dialect, lanes = get_dialect(using), set[Lane]()
    number, left = dialect.keys_at_once, sorted(set(keys))
    while left:
        admitted = dialect.admit(left[:number], *_rules(using), floors or {})
        lanes |= admitted.lanes
        _tasks.update(admitted.strangers)
        left = sorted(admitted.unfinished) + left[number:]
    if lanes:
        notify.ready(lanes, using)
    return lanes


def give_back_slots(key: str, using: str) -> int:
    """Let the jobs that are in line under the key wait for a slot again; how many."""
    in_line = Job.objects.using(using).having_slots().filter(concurrency_key=key, status=Job.Status.READY)
    ready = in_line.filter(place__isnull=False)
    return get_dialect(using).again_after_collision(lambda: ready.update(status=Job.Status.WAITING))


def _rules(using: str) -> tuple[dict[str, Slots], list[str]]:
    """How many slots there are by what the tasks say, and the tasks that this process does not know: a worker that
    does will let their jobs in.
    """
    rules: dict[str, Slots] = {}
    unknown = []
    for path in sorted(_tasks):
        try:
            rules[path] = slots_of(resolve(path))
        except UnknownTask as error:
            unknown.append(path)
            _tell_of(path, error, using)
    return rules, unknown


def _tell_of(path: str, error: UnknownTask, using: str) -> None:
    """Warn now and then of jobs that only a worker of other code can let in; nobody else says that they wait."""
    now = time.monotonic()
    if now < _told.get((using, path), now):
        return
    _told[using, path] = now + TOLD_FOR
    if Job.objects.using(using).waiting_for_slots().filter(task_path=path).exists():
        logger.warning("%s Its jobs wait for slots of their concurrency keys until a worker knows it.", error)
