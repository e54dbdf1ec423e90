"""Admit: let jobs of a concurrency key come in line, no more of them than the key has slots.

Until then they wait: no claim sees them, however many they are. From then on until it runs no more a job has a slot,
for that is what its row says: in line or running. So there is nothing to give back, and nothing that could be forgotten
or given back twice, whatever dies. Who admits locks the key first, then counts, then lets in: of two who do so at once
the second one sees what the first one has done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from django.db import DatabaseError, InterfaceError

from ..dialects import Admitted, Lane, get_dialect
from ..exceptions import UnknownTask
from ..keys import Slots, limit_key, slots_of
from ..logs import get_logger
from ..models import Job
from ..outcomes import State
from ..registry import resolve
from . import notify
from .claim import release
from .follow import end_waiting
from .parts import PassedOver, in_parts

logger = get_logger(__name__)

#: Tasks that jobs waited for slots of, in this process.
_tasks: set[str] = set()
#: When to warn again of those that this process does not know, by the monotonic clock.
_told: dict[tuple[str, str], float] = {}
#: After so many seconds.
TOLD_FOR = 3600.0

#: Keys of which no job can be let in for now.
_passed_over = PassedOver()

#: So many jobs of a key are looked at for one that says what cannot be.
MOST_LOOKED_AT = 500

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
    fences = {job.fence for job in keys}

    def send() -> int:
        for key, some in ids.items():
            Job.objects.using(using).filter(pk__in=some, fence__in=fences).update(concurrency_key=key)
        return release(keys, using, SOON)

    return get_dialect(using).transact(send)


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

    def admit_some(some: Sequence[str]) -> Admitted:
        admitted = dialect.admit(some, *_rules(using), floors or {})
        lanes.update(admitted.lanes)
        _tasks.update(admitted.strangers)
        return admitted

    number, left = dialect.keys_at_once, sorted(set(keys).difference(map(str, _passed_over.now(using))))
    try:
        while left:
            admitted = in_parts(left[:number], admit_some, using, partial(_refuse, using))
            left = sorted({key for one in admitted for key in one.unfinished}) + left[number:]
    finally:  # what is in line is there, whatever has come after
        if lanes:
            notify.ready(lanes, using)
    return lanes


def _refuse(using: str, key: str, error: Exception) -> Admitted:
    """It cannot be told who of this key is to be let in: end the jobs that say of themselves what cannot be."""
    jobs = Job.objects.using(using).waiting_for_slots().filter(concurrency_key=key).order_by("-priority", "id")
    ended = [job for job in jobs[:MOST_LOOKED_AT] if (problem := problem_of(job)) and _fail(job, problem, using)]
    if ended:
        return Admitted(set(), {key}, set())
    logger.error("No job of the concurrency key %r can be let in for now.", key, exc_info=error)
    _passed_over.add(key, using)
    return Admitted(set(), set(), set())


def _fail(job: Job, problem: str, using: str) -> bool:
    def end() -> None:
        end_waiting(job, State.FAILED, problem, using, exception="builtins.ValueError")

    try:
        get_dialect(using).transact(end)
    except (DatabaseError, InterfaceError) as error:
        logger.error("%s cannot be ended: %s", job, str(error).strip())
        return False
    logger.error("%s has failed before it could start. %s", job, problem)
    return True


def problem_of(job: Job) -> str:
    """Why the job's options do not say how many may run beside it; empty if they do. Rows can be changed by hand."""
    options = job.options
    if options is None:
        return ""
    if not isinstance(options, dict):
        return f"Its options must be an object, but are {json.dumps(options)[:100]}."
    for name, value in options.items():
        fits = {
            "concurrency": value is None or (isinstance(value, int) and not isinstance(value, bool)),
            "in_order": isinstance(value, bool),
            "fair": isinstance(value, bool),
        }
        if not fits.get(name, True):
            return f"Its option {name!r} cannot be {json.dumps(value)[:100]}."
    return ""


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
