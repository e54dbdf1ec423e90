"""Scheduler: enqueues the ticks of schedules when they are due. Each worker has one, and none of them leads.

In a thread and on a connection of its own: a tick must not wait for a prune, nor a heartbeat for a schedule's layers.
It goes on while the worker stops, until its last job has ended.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError

from ..dialects import get_dialect
from ..discovery import discover
from ..exceptions import UnknownTask
from ..lifecycle import fire, synchronise, upcoming
from ..lifecycle.schedule import Upcoming, note_failure
from ..logs import get_logger
from .recovery import Recovery

logger = get_logger(__name__)

#: Seconds between two looks, at most: others may have changed something.
INTERVAL = 10.0
#: And between two comparisons of the rows with the code.
SYNCHRONISE_INTERVAL = 30.0
#: A schedule that cannot be enqueued here is left to others for so long.
PUT_OFF = 15.0
#: How soon to look again at one that another worker is about to enqueue.
PATIENCE = 1.0
#: Workers that wait for the same tick do not all look in the same moment.
SPREAD = 0.05


class Scheduler(threading.Thread):
    def __init__(self, using: str, enqueued: Callable[[], None], recovery: Recovery | None = None) -> None:
        """``enqueued`` is called when there are new jobs."""
        super().__init__(name="jobqueue-scheduler", daemon=True)
        self.using, self.enqueued = using, enqueued
        self.recovery = recovery or Recovery(using)
        #: The schedules that the code of this process has.
        self._names: frozenset[str] = frozenset()
        self._synchronise_at = 0.0
        #: Until when which schedules are left to others, by the monotonic clock.
        self._put_off: dict[int, float] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        with get_dialect(self.using).session():
            retry = PATIENCE
            while not self._stopping.is_set():
                pause = INTERVAL
                try:
                    self._keep_in_step()
                    pause, retry = self._look(), PATIENCE
                except (DatabaseError, InterfaceError) as error:
                    logger.error("Cannot look after the schedules: %s", str(error).strip())
                    get_dialect(self.using).connection.close()
                    self.recovery.pause(retry, self._stopping.is_set)
                    pause, retry = 0.0, min(INTERVAL, retry * 2)
                except Exception:
                    logger.exception("The scheduler stumbled; it goes on.")
                self._stopping.wait(pause + random.uniform(0, SPREAD))

    def stop(self) -> None:
        self._stopping.set()

    def _keep_in_step(self) -> None:
        if time.monotonic() >= self._synchronise_at:
            discover()  # again: a module that could not be imported may have been mended, half a deploy be whole
            self._names = synchronise(self.using)
            self._synchronise_at = time.monotonic() + SYNCHRONISE_INTERVAL * random.uniform(0.8, 1.2)

    def _look(self) -> float:
        """Enqueue what is due; in how many seconds to look again."""
        coming = upcoming(self.using, INTERVAL, self._left_to_others())
        ours = [one for one in coming if self._is_for_us(one)]
        pause = 0.0 if coming and not ours else INTERVAL  # behind those of others there may be some of ours
        for one in ours:
            if one.seconds > 0:
                return min(pause, one.seconds)
            if self._stopping.is_set():
                break
            # if it was done, the next tick may be due by now; if another one is at it, he may yet fail
            pause = 0.0 if self._fire(one) else min(pause, PATIENCE)
        return pause

    def _left_to_others(self) -> list[int]:
        now = time.monotonic()
        self._put_off = {pk: until for pk, until in self._put_off.items() if until > now}
        return list(self._put_off)

    def _is_for_us(self, one: Upcoming) -> bool:
        """A schedule that is not in our code is fired by those that have it, until they are gone."""
        if not one.is_from_code or one.name in self._names:
            return True
        self._put_off[one.pk] = time.monotonic() + PUT_OFF
        return False

    def _fire(self, one: Upcoming) -> bool:
        """False: another worker is at it, or it cannot be enqueued here."""
        try:
            jobs = fire(one.pk, self.using)
            if jobs:
                logger.debug("Schedule %s: job #%s.", one.name, ", #".join(map(str, jobs)))
                self.enqueued()
            return jobs is not None
        except (DatabaseError, InterfaceError) as error:
            if get_dialect(self.using).is_refusal(error):
                self._leave(one, error)
            else:
                raise
        except Exception as error:
            self._leave(one, error)
        return False

    def _leave(self, one: Upcoming, error: Exception) -> None:
        """The tick stays due, for another worker or for a later try."""
        self._put_off[one.pk] = time.monotonic() + PUT_OFF
        known = not isinstance(error, UnknownTask)
        logger.error("Schedule %s cannot be enqueued: %s", one.name, error, exc_info=error if known else None)
        note_failure(one.pk, error, self.using)
