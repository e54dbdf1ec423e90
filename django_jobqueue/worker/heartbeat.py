"""Heartbeat: renews the worker's lease, learns which of its jobs are to be cancelled, tells how far they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError

from ..dialects import get_dialect
from ..lifecycle import report
from ..lifecycle.lease import announce_stop, cancel_requests, renew
from ..logs import get_logger
from .desk import Desk
from .recovery import Recovery

logger = get_logger(__name__)

TICK = 1.0


class Heartbeat(threading.Thread):
    """One thread, one connection, and nothing slow in it: the lease of every job here hangs on it."""

    def __init__(
        self,
        desk: Desk,
        lease: float,
        lost: Callable[[], None],
        cancel: Callable[[int], None],
        recovery: Recovery | None = None,
    ) -> None:
        """``lost`` is called when the lease turns out to be lost, ``cancel`` with each job that is to be cancelled."""
        super().__init__(name="jobqueue-heartbeat", daemon=True)
        self.desk, self.lease, self.lost, self.cancel = desk, lease, lost, cancel
        self.recovery = recovery or Recovery(desk.using)
        self._renewed_at = time.monotonic()
        self._stopping = threading.Event()
        self._announced = False

    def run(self) -> None:
        with get_dialect(self.desk.using).session():
            pause = min(TICK, self.lease / 3)
            while not self._stopping.wait(pause):
                pause = min(TICK, self.lease / 3)
                try:
                    self._beat()
                except (DatabaseError, InterfaceError) as error:
                    logger.error("No heartbeat for %.0f s: %s", time.monotonic() - self._renewed_at, str(error).strip())
                    get_dialect(self.desk.using).connection.close()
                    if self.recovery.is_away():
                        self.recovery.wait(self._stopping.is_set)
                        pause = 0.0  # nothing starts here until the lease has been renewed
                except Exception:
                    logger.exception("The heartbeat stumbled; it goes on.")

    def stop(self) -> None:
        self._stopping.set()

    def _beat(self) -> None:
        if time.monotonic() - self._renewed_at >= self.lease / 3:
            began = time.monotonic()
            if not renew(self.desk.id, self.desk.using, lease=self.lease):
                self.lost()
            self.recovery.note_there()
            self._renewed_at = began
            self.desk.believed_until = began + self.lease
        if self.desk.stop_requested.is_set() and not self._announced:
            announce_stop(self.desk.id, self.desk.using)
            self._announced = True
        if self.desk.runs:
            for pk in cancel_requests(self.desk.id, self.desk.using):
                self.cancel(pk)
        if news := self.desk.take_progress():
            report(news, self.desk.using)
