"""Notify: tell workers that jobs are ready, after the caller's commit and without delaying the caller.

A NOTIFY inside the caller's transaction would serialize all commits of the database. So notifications use a connection
of their own. A thread opens it, reads the database's answers, and sends what this process commits while an earlier
notification is still unanswered. The first notification after a pause is sent by the caller itself, without waiting
for the answer: the thread would first have to wait for the interpreter's lock, which can take milliseconds in a busy
process.

An occasional enqueue outside a transaction needs neither thread nor connection: the INSERT itself sends the NOTIFY,
unless another INSERT is sending one at that moment.

Every notification is a hint. If one is lost, with its process or its connection, workers find the jobs some seconds
later.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..dialects import Lane, get_dialect
from ..dialects.channel import SENDERS, SOON, Sender
from ..logs import get_logger
from ..models import Job
from ..outcomes import Outcome
from ..timing import aware
from .aside import PerDatabase, start_thread

logger = get_logger(__name__)

#: Seconds between two notifications of one process: the minimum, and the average while a process enqueues without
#: pause. A NOTIFY costs about a third of an enqueue, and such a process keeps the workers awake anyway.
PAUSE, STEADY_PAUSE = 0.01, 0.05
#: So many may follow each other with the short pause.
BURST = 10.0
#: The thread and its connection are given up when there was nothing to say for so long.
IDLE = 30.0
#: Seconds until the next try when the database takes none; doubled each time, up to the second number.
RETRY = (1.0, 30.0)
#: A process that ends waits so long for what it still has to say.
LAST_WORDS = 0.5
#: Lanes beyond that number are not told one by one.
MANY = 200


def enqueued(jobs: Iterable[Job], using: str) -> None:
    """These jobs were saved: wake workers for those in line. Workers also need to learn of what is due very soon."""
    lanes: set[tuple[str, int]] = set()
    soon, waiting = False, Job.Status.WAITING.value
    for job in jobs:
        if job.status == waiting:
            soon = soon or not job.waiting_for  # for a slot, which it may get at once
        elif job.__dict__.get("place", 0) is not None:  # not read back: in line
            lanes.add((job.queue_name, job.priority))
        elif not soon:
            soon = _is_soon(job.run_after)
    if soon:
        look(using)
    elif lanes:
        ready([Lane(*lane) for lane in lanes], using)


def lane_to_tell(job: Job) -> Lane | None:
    """The lane that the INSERT of this unsaved job could tell of; None if there will be nothing to tell, or more."""
    if job.status != Job.Status.READY or job.place is None:
        return None
    return Lane(job.queue_name, job.priority)


def takes_turn(using: str) -> bool:
    """May a statement of the caller's tell the workers of a lane now? True is an announcement that it will."""
    return _notifiers[using].takes_turn()


def ready(lanes: Collection[Lane], using: str) -> None:
    """There are, or will be with the commit of the current transaction, jobs in these lanes."""
    if get_dialect(using).name not in SENDERS:
        return
    connection = connections[using]
    if connection.in_atomic_block:
        _with_commit(connection, lanes)
    elif connection.get_autocommit():
        _notifiers[using].put(lanes)
    # else the caller commits by hand, and nobody says when: the workers will see


def put_back(outcomes: Iterable[Outcome], using: str) -> None:
    """The attempts that came to this are over, and their jobs are to run again."""
    if any(outcome.delay < SOON if outcome.run_after is None else _is_soon(outcome.run_after) for outcome in outcomes):
        look(using)


def look(using: str) -> None:
    """There is, or will be, something to find; where is not known, or not yet in line."""
    ready((), using)


def _is_soon(run_after: datetime | None) -> bool:
    if run_after is None:
        return True
    return aware(run_after) < datetime.now(UTC) + timedelta(seconds=SOON)  # timezone.now() may be naive


# -- until the commit ----------------------------------------------------------------------------


class News:
    """Lanes that got jobs. No lanes mean: look at all of them; nothing takes that back."""

    __slots__ = ("lanes", "using")

    def __init__(self, using: str, lanes: Collection[Lane]) -> None:
        self.using, self.lanes = using, set(lanes)

    def add(self, lanes: Collection[Lane]) -> None:
        if not lanes or len(self.lanes) > MANY:
            self.lanes.clear()
        elif self.lanes:
            self.lanes.update(lanes)

    def __call__(self) -> None:
        _notifiers[self.using].put(self.lanes)


def _with_commit(connection: BaseDatabaseWrapper, lanes: Collection[Lane]) -> None:
    """Say it when the transaction is committed; in one word, if a loop enqueues a hundred thousand jobs."""
    if connection.run_on_commit:
        savepoints, last = connection.run_on_commit[-1][:2]
        if isinstance(last, News) and savepoints == set(connection.savepoint_ids):
            last.add(lanes)
            return
    transaction.on_commit(News(connection.alias, lanes), using=connection.alias, robust=True)


# -- after the commit ----------------------------------------------------------------------------


class Notifier:
    """Sends what a process has to say to one database. Its thread and its connection last while there is something."""

    def __init__(self, using: str) -> None:
        self.using = using
        self._news: News | None = None
        self._posted: News | None = None  # what is on its way
        self._at_rest = False  # the thread waits for news, and nothing is under way
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ending = self._failing = False
        self._sender: Sender | None = None
        self._sent_at, self._credit, self._free_at = 0.0, BURST, 0.0
        self._line = threading.Lock()  # around all use of the sender

    def put(self, lanes: Collection[Lane]) -> None:
        """Never waits, never raises."""
        with self._changed:
            if self._at_rest and self._sender is not None:
                self._post(self._sender, News(self.using, lanes))
                return
            if self._news is not None:
                self._news.add(lanes)
                if self._thread is not None:  # it has been woken for those
                    return
            else:
                self._news = News(self.using, lanes)
            if self._thread is None:
                self._thread = start_thread(self._serve, "jobqueue-notifier")
            self._changed.notify_all()

    def takes_turn(self) -> bool:
        """Is it long enough since the last notification, and none under way? Then this is the time of the next one."""
        with self._changed:
            is_free = self._at_rest or self._thread is None or self._failing  # there it may take long
            if not is_free or (now := time.monotonic()) < self._free_at:
                return False
            self._free_at = now + self._pause()
            return True

    def _post(self, sender: Sender, news: News) -> None:
        """For the caller, with the lock on what has changed."""
        self._at_rest = False
        try:
            sender.post(news.lanes)
        except Exception:  # the thread sees to it
            self._news = news
        else:
            self._posted = news
        self._changed.notify_all()

    def _serve(self) -> None:
        retry, most = RETRY
        while self._has_news():
            if self._send():
                retry = RETRY[0]
                self._wait(self._pause())
            else:
                self._wait(retry)
                retry = min(most, retry * 2)

    def _has_news(self) -> bool:
        """Wait for news; False, and the thread's end, when there are none for a long time."""
        with self._changed:
            self._at_rest = not self._news
            self._changed.wait_for(lambda: self._news or self._posted or self._ending, IDLE)
            self._at_rest = False
            if (self._news or self._posted) and not self._is_vain:
                return True
            self._thread = None
        self._hang_up()
        return False

    def _pause(self) -> float:
        """Until the next notification: short, unless there were too many of late."""
        now = time.monotonic()
        self._credit = min(BURST, self._credit + (now - self._sent_at) / STEADY_PAUSE) - 1
        self._sent_at = now
        return PAUSE if self._credit > 0 else STEADY_PAUSE

    @property
    def _is_vain(self) -> bool:
        return self._ending and self._failing

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ending, seconds)

    def _send(self) -> bool:
        with self._line:  # before the news are taken: what ``forget`` has missed would reach a database that is going
            self._settle()
            with self._changed:
                news, self._news = self._news, None
            try:
                if news is not None:
                    self._send_over_line(news)
            except Exception as error:
                self._close_sender()
                self.put(news.lanes if news else ())
                if not self._failing:
                    logger.warning("Workers cannot be notified of new jobs, they poll: %s", str(error).strip())
                self._failing = True
                return False
        self._failing = False
        return True

    def _settle(self) -> None:
        """What was posted has arrived, or is to be sent again."""
        with self._changed:
            posted, self._posted = self._posted, None
        if posted is not None and not (self._sender and self._works(self._sender.settle)):
            self.put(posted.lanes)

    def _send_over_line(self, news: News) -> None:
        if self._sender and self._works(partial(self._sender.send, news.lanes)):
            return
        self._sender = SENDERS[get_dialect(self.using).name](self.using)
        self._sender.send(news.lanes)

    def _works(self, act: Callable[[], None]) -> bool:
        """Do it; False if the connection is no good. One that has been idle may have died long ago."""
        try:
            act()
        except Exception:
            self._close_sender()
            return False
        return True

    def _hang_up(self) -> None:
        with self._line:
            self._close_sender()

    def _close_sender(self) -> None:
        sender, self._sender = self._sender, None
        try:
            if sender is not None:
                sender.close()
        except Exception:
            logger.debug("The notifier's connection could not be closed.", exc_info=True)

    def forget(self) -> None:
        """Say nothing more of what was, and let go of the database."""
        with self._changed:
            self._news = self._posted = None
            self._at_rest = False
        self._hang_up()

    def end(self) -> None:
        """Send what is left, at once, and wait for it, but not for long."""
        with self._changed:
            self._ending, thread = True, self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(LAST_WORDS)


_notifiers = PerDatabase(Notifier, Notifier.forget)


@atexit.register
def end_all() -> None:
    for notifier in list(_notifiers.values()):
        notifier.end()
