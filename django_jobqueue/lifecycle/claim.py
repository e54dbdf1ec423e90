"""Claim: take ready jobs for one worker. Promote: put due jobs in line. Release: give back what was not started."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from ..dialects import ANY, Filter, Lane, Peek, Release, get_dialect
from ..dialects.asking import Verdict, judge
from ..logs import get_logger
from ..models import Attempt, Job, Queue
from ..models.fields import NextPlace
from ..models.job import READY_OR_IN_WAITING
from ..outcomes import State, describe
from . import notify
from .follow import end_waiting
from .keep import keep_of
from .parts import in_parts

logger = get_logger(__name__)

PROMOTE_LIMIT = 1000
#: So many of the latest attempts are read with a job that has had more.
ATTEMPTS_READ = 50
#: Of so many such jobs in one statement.
JOBS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class QueueSelector:
    """Which queues a worker takes from, in order: names, and prefixes that end in ``*``. Empty: all of them.

    Neighbours that have a weight share one place in that order: which of them comes first is drawn anew each time, in
    proportion to the weights.
    """

    patterns: tuple[str, ...] = ()
    #: One for each pattern, 0 for none.
    weights: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> QueueSelector:
        """From ``"mail,images*"`` or ``"urgent,mail=3,images*=1"``.

        Raise ``ValueError`` for an empty name, a ``*`` that is not at the end, or a weight that is no whole number
        from 1 to 1000.
        """
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        patterns, weights = [], []
        for part in parts:
            pattern, _, weight = part.partition("=")
            pattern, weight = pattern.strip(), weight.strip()
            if not pattern or "*" in pattern[:-1]:
                raise ValueError(f"{part!r} in {text!r} is neither a queue's name nor a prefix with a * at its end.")
            if "=" in part and not (weight.isascii() and weight.isdigit() and 1 <= int(weight) <= 1000):
                raise ValueError(f"The weight in {part!r} must be a whole number from 1 to 1000.")
            patterns.append(pattern)
            weights.append(int(weight or 0))
        return cls(tuple(patterns), tuple(weights) if any(weights) else ())

    def rank(self, queue_name: str) -> int | None:
        """The place of the first pattern that the queue matches; None if it matches none."""
        if not self.patterns:
            return 0
        for place, pattern in enumerate(self.patterns):
            if queue_name == pattern or (pattern.endswith("*") and queue_name.startswith(pattern[:-1])):
                return place
        return None

    def draw(self) -> list[tuple[int, float]]:
        """What to sort by instead of the ranks: the same, but for neighbours with weights."""
        order: list[tuple[int, float]] = []
        for place, weight in enumerate(self.weights or [0] * len(self.patterns)):
            shared = bool(weight and place and self.weights[place - 1])
            group = order[-1][0] if shared else place
            # the first of several waiting times that are distributed so is each one's in proportion to its rate
            order.append((group, random.expovariate(weight) if weight else 0.0))
        return order or [(0, 0.0)]

    @property
    def condition(self) -> Q:
        """The same as a filter for jobs."""
        chosen = Q()
        for pattern in self.patterns:
            lookup = {"queue_name__startswith": pattern[:-1]} if pattern.endswith("*") else {"queue_name": pattern}
            chosen |= Q(**lookup)
        return chosen

    def __str__(self) -> str:
        weights = [f"={weight}" if weight else "" for weight in self.weights] or [""] * len(self.patterns)
        return ", ".join(map("".join, zip(self.patterns, weights, strict=True))) or "all"


def lanes_in_order(selector: QueueSelector, using: str, turn: int = 0) -> list[Lane]:
    """The lanes that have jobs and may be claimed from, best first."""
    lanes = get_dialect(using).lanes()
    if not lanes:
        return []
    paused = set(Queue.objects.using(using).filter(paused_at__isnull=False).values_list("name", flat=True))
    return in_order(selector, [lane for lane in lanes if lane.queue_name not in paused], turn)


def in_order(selector: QueueSelector, lanes: Iterable[Lane], turn: int = 0) -> list[Lane]:
    """Those of the lanes that are selected, best first.

    Patterns come first, then priorities. ``turn`` rotates what is equal in both, so that no queue starves another.
    """
    order = selector.draw()
    ranked: dict[tuple[tuple[int, float], int], list[Lane]] = {}
    for lane in lanes:
        rank = selector.rank(lane.queue_name)
        if rank is not None:
            ranked.setdefault((order[rank], -lane.priority), []).append(lane)
    ordered = []
    for _, equal in sorted(ranked.items()):
        start = turn % len(equal)
        ordered += equal[start:] + equal[:start]
    return ordered


def note_queues(names: Iterable[str], using: str) -> None:
    """Make sure that the queues have rows, so that they can be listed and paused."""
    Queue.objects.using(using).bulk_create([Queue(name=name) for name in sorted(names)], ignore_conflicts=True)


def claim(
    lanes: Sequence[Lane],
    limit: int,
    worker_id: int,
    using: str,
    *,
    floors: Sequence[int] = (),
    isolated: bool = False,
    only: Filter = ANY,
) -> list[Job]:
    """Up to ``limit`` jobs, now RUNNING and held by this worker; each carries the fence of its attempt.

    ``floors`` are the places from which to look on, one for each lane; ``isolated`` takes a job that must run alone;
    ``only`` is what ``narrowed`` has made.
    """
    if not lanes or limit < 1:
        return []
    fence = secrets.randbits(63)
    try:
        jobs = get_dialect(using).claim(lanes, limit, worker_id, fence, floors=floors, isolated=isolated, only=only)
    except Exception as error:
        if judge(error, get_dialect(using)) in (Verdict.AWAY, Verdict.CUT):
            raise
        if Job.objects.using(using).running().filter(worker=worker_id, fence=fence).exists():
            raise  # they have been claimed, and the answer was lost: the worker gives them back
        jobs = _claim_one_by_one(lanes, limit, worker_id, fence, using, isolated=isolated, only=only)
    attach_past_attempts([job for job in jobs if job.attempts > 1], using)
    return jobs


def _claim_one_by_one(
    lanes: Sequence[Lane], limit: int, worker_id: int, fence: int, using: str, *, isolated: bool, only: Filter
) -> list[Job]:
    """``claim`` when the database refuses one of the jobs at the head of the lanes: that one is ended."""
    dialect, jobs = get_dialect(using), list[Job]()
    in_line = Job.objects.using(using).in_line().order_by("place")
    for lane in lanes:
        for pk in list(in_line.filter(**lane._asdict()).values_list("pk", flat=True)[: limit - len(jobs)]):
            one = Filter(f"{only.sql} AND id = %s", (*only.params, pk))
            try:
                jobs += dialect.claim([lane], 1, worker_id, fence, isolated=isolated, only=one)
            except Exception as error:
                if judge(error, dialect) in (Verdict.AWAY, Verdict.CUT):
                    if jobs:
                        return jobs
                    raise
                _end_refused(pk, error, using)
    return jobs


def _end_refused(pk: int, error: Exception, using: str) -> int:
    """Let a job fail that the database does not let go on."""
    logger.error("Job #%s cannot be claimed or put in line.", pk, exc_info=error)

    def end() -> None:
        for job in Job.objects.using(using).filter(pk=pk, status=Job.Status.READY).select_for_update():
            message = f"The database refuses to let it run: {describe(error)}"
            end_waiting(job, State.FAILED, message, using, exception=f"{type(error).__module__}.{type(error).__name__}")

    try:
        get_dialect(using).transact(end)
    except Exception as another:
        if judge(another, get_dialect(using)) is Verdict.AWAY:
            raise
        logger.error("Job #%s cannot be ended either: %s", pk, str(another).strip())
    return 0


def narrowed(narrow: Callable[[QuerySet[Job]], QuerySet[Job]], using: str) -> Filter | None:
    """What ``narrow`` leaves of the jobs, for ``claim``; None: nothing. Raises what ``narrow`` raises."""
    return get_dialect(using).compiled(narrow(Job.objects.using(using)))


def attach_past_attempts(jobs: Sequence[Job], using: str) -> None:
    """Give each job its attempts that have ended; of very many the first one and the latest."""
    past: dict[int, list[Attempt]] = {}
    for attempt in _past_attempts(jobs, using):
        past.setdefault(attempt.job_id, []).append(attempt)
    for job in jobs:
        job.past_attempts = tuple(past.get(job.pk, ()))


def _past_attempts(jobs: Sequence[Job], using: str) -> Iterator[Attempt]:
    rows = Attempt.objects.using(using).order_by("job_id", "number")
    if few := [job.pk for job in jobs if job.attempts <= ATTEMPTS_READ]:
        yield from rows.filter(job_id__in=few)
    many = [job.pk for job in jobs if job.attempts > ATTEMPTS_READ]
    for start in range(0, len(many), JOBS_AT_ONCE):
        some = many[start : start + JOBS_AT_ONCE]
        wanted = Q(job_id__in=some, number=1)
        for pk, number in get_dialect(using).latest_attempts(some, ATTEMPTS_READ).items():
            wanted |= Q(job_id=pk, number__gte=number)
        yield from rows.filter(wanted)


def held_by(worker_id: int, using: str) -> list[Job]:
    """The running jobs of this worker by the database's account, which may know of claims that the worker does not."""
    return list(Job.objects.using(using).running().filter(worker=worker_id).only("id", "fence", "task_path", "options"))


def peek(using: str) -> Peek:
    """What there is to do. A cheap read."""
    return get_dialect(using).peek()


def next_place(using: str) -> int:
    """A place that is behind all that were drawn before."""
    return get_dialect(using).next_place()


def first_place(lane: Lane, floor: int, paused: Sequence[str], using: str) -> int | None:
    """The place of the lane's first job from the floor on that is of no paused task. A plain read: it locks nothing."""
    line = Job.objects.using(using).in_line().filter(**lane._asdict(), place__gte=floor)
    return line.of_other_tasks(paused).order_by("place").values_list("place", flat=True).first()


def promote(using: str) -> int:
    """Put the scheduled jobs in line whose time has come by the database's clock; how many."""
    try:
        return get_dialect(using).promote(PROMOTE_LIMIT)
    except Exception as error:
        if judge(error, get_dialect(using)) in (Verdict.AWAY, Verdict.CUT):
            raise
    scheduled = Job.objects.using(using).scheduled()
    due = list(Job.objects.using(using).due().order_by("run_after").values_list("pk", flat=True)[:PROMOTE_LIMIT])

    def put_in_line(some: Sequence[int]) -> int:
        return scheduled.filter(pk__in=some).update(place=NextPlace(), status=READY_OR_IN_WAITING)

    return sum(in_parts(due, put_in_line, using, lambda pk, error: _end_refused(pk, error, using))) if due else 0


def next_due(using: str, selector: QueueSelector = QueueSelector()) -> float | None:
    """Seconds until the next scheduled job of these queues is due; None if there is none."""
    scheduled = Job.objects.using(using).scheduled().filter(selector.condition)
    first = scheduled.annotate(now=Now()).order_by("run_after")
    found = first.values_list("run_after", "now").first()
    if found is None or found[0] is None:
        return None
    return float((found[0] - found[1]).total_seconds())


def isolated_waiting(lanes: Sequence[Lane], using: str) -> bool:
    """Is there a job in these lanes that must run alone?"""
    in_line = Job.objects.using(using).in_line().filter(place__lt=0)
    return any(in_line.filter(queue_name=lane.queue_name, priority=lane.priority).exists() for lane in lanes)


def release(jobs: Iterable[Job], using: str, delay: float = 0.0) -> int:
    """Give back jobs that were claimed and not started: nothing is counted or recorded; how many were still ours."""
    releases = [Release(job.pk, job.fence, delay, keep_of(job, "CANCELLED")) for job in jobs if job.fence is not None]
    given = get_dialect(using).release(releases) if releases else 0
    if given and not delay:
        notify.look(using)
    return given
