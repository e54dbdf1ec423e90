"""Wake-up: tells the claimer that there may be jobs, and for how long it may sleep without being told."""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection

from ..dialects import Lane, get_dialect
from ..dialects.channel import LISTENERS, Listener, News, ping
from ..lifecycle import QueueSelector
from ..logs import get_logger
from .recovery import Recovery

logger = get_logger(__name__)

#: Seconds that an idle worker sleeps at most while it would be told of jobs. It looks all the same: what is told may
#: get lost.
LONGEST = 5.0
#: Without a channel it looks again after a tenth of the time that it has found nothing, and not sooner than this.
SHORTEST = 0.1
#: The channel has to carry an answer so often, and within so many seconds.
PING_INTERVAL, PING_PATIENCE = 60.0, 2.0
#: Seconds until the next try after the connection is lost; doubled each time, up to the second number.
RETRY = (0.5, 60.0)
#: How long the thread listens before it sees to other things.
TICK = 0.25
#: Workers that are woken together begin at random within so many seconds for each of them: for a few it would only be
#: a delay, a hundred would line up for the same row.
SPREAD, MOST_SPREAD = 0.0001, 0.005


class Deaf(Exception):
    """The channel is there, but carries nothing."""


class Wakeup(threading.Thread):
    """One thread, one connection that listens. On a database without a channel it ends at once, and the worker polls.

    ``woken`` is called with the lanes that got jobs, none if that is not known. A channel that must prove itself is
    asked to by the claimer, over the claimer's connection (``ping_if_due``): a proxy that pools connections may take a
    LISTEN and deliver nothing.
    """

    def __init__(
        self,
        using: str,
        selector: QueueSelector,
        *,
        poll: float,
        woken: Callable[[Collection[Lane]], None],
        awaited: Callable[[Collection[int]], None] = lambda ids: None,
        recovery: Recovery | None = None,
    ) -> None:
        """``awaited`` is called with the numbers of jobs that somebody waits for."""
        super().__init__(name="jobqueue-wakeup", daemon=True)
        self.using, self.selector, self.poll, self.woken, self.awaited = using, selector, poll, woken, awaited
        self.recovery = recovery or Recovery(using)
        #: Would we be told of new jobs?
        self.listening = False
        self._warned = False
        self._stopping = threading.Event()
        self._ping_due = False
        self._pinged_at = 0.0
        self._awaited = ""  # the ping that has not come back yet
        self._strangers = 0  # pings of other workers since our last one
        self._others = 0  # and before that: as many as there are other workers

    def stop(self) -> None:
        self._stopping.set()

    # -- for the claimer -------------------------------------------------------------------------

    def pause(self, idle: float) -> float:
        """For how many seconds the claimer may sleep, having found nothing for ``idle`` seconds.

        At random, so that workers do not look in step.
        """
        longest = LONGEST if self.listening else min(self.poll, max(SHORTEST, idle / 10))
        return longest * random.uniform(0.75, 1.25)

    def ping_if_due(self) -> None:
        """Send a ping, if it is time, over the calling thread's connection."""
        if not self._ping_due:
            return
        self._awaited, self._pinged_at, self._ping_due = secrets.token_hex(8), time.monotonic(), False
        try:
            ping(self.using, self._awaited)
        except Exception:
            self._awaited, self._ping_due = "", True  # that tells nothing about the channel
            raise

    # -- the thread ------------------------------------------------------------------------------

    def run(self) -> None:
        open_listener = LISTENERS.get(get_dialect(self.using).name)
        retry, most = RETRY
        while open_listener is not None and not self._stopping.is_set():
            opened = time.monotonic()
            try:
                self._listen(open_listener(self.using))
            except Exception as error:
                if time.monotonic() - opened > most:
                    retry = RETRY[0]
                self._lose(error)
                if not isinstance(error, Deaf) and self.recovery.is_away():
                    self.recovery.wait(self._stopping.is_set)
                    retry = RETRY[0]
                    continue
                self._stopping.wait((most if isinstance(error, Deaf) else retry) * random.uniform(0.75, 1.25))
                retry = min(most, retry * 2)

    def _listen(self, listener: Listener) -> None:
        try:
            if listener.answers:
                self._ask_for_ping()
            else:
                self._hear()
            while not self._stopping.is_set():
                for news in listener.wait(TICK):
                    self._take(news)
                if listener.answers:
                    self._see_to_ping()
        finally:
            listener.close()

    def _take(self, news: News) -> None:
        if news.ping:
            if news.ping == self._awaited:
                self._awaited = ""
                self._hear()
            else:
                self._strangers += 1
        elif news.awaited:
            self.awaited(news.awaited)
        elif not news.lanes:
            self._wake()
        elif lanes := [lane for lane in news.lanes if self.selector.rank(lane.queue_name) is not None]:
            self._wake(lanes)

    def _wake(self, lanes: Collection[Lane] = ()) -> None:
        others = max(self._others, self._strangers)
        if others:
            self._stopping.wait(random.uniform(0, min(MOST_SPREAD, SPREAD * others)))
        self.woken(lanes)

    # -- is it true? -----------------------------------------------------------------------------

    def _see_to_ping(self) -> None:
        since = time.monotonic() - self._pinged_at
        if self._awaited and since > PING_PATIENCE:
            raise Deaf("what the database is asked to send does not arrive. Is PgBouncer in between?")
        if not self._awaited and not self._ping_due and since > PING_INTERVAL:
            self._ask_for_ping()

    def _ask_for_ping(self) -> None:
        self._awaited, self._ping_due = "", True
        self._others, self._strangers = self._strangers, 0
        self.woken(())  # so that it is sent, and because jobs may have come while nobody listened

    def _hear(self) -> None:
        get_dialect(self.using).direct = True
        if not self.listening:
            logger.log(logging.INFO if self._warned else logging.DEBUG, "The worker is told of new jobs.")
            self.listening, self._warned = True, False
            self.woken(())

    def _lose(self, error: Exception) -> None:
        self._awaited, self._ping_due = "", False
        was, self.listening = self.listening, False
        if isinstance(error, Deaf):
            get_dialect(self.using).direct = False
        if not self._warned:
            logger.warning("The worker is not told of new jobs, it polls: %s", str(error).strip())
            self._warned = True
        if was:
            self.woken(())  # the claimer may have gone to sleep for long
