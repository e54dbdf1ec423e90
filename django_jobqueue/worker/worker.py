"""Worker: one process that claims and runs jobs; the parts, and how they start and stop."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, OperationalError, connections

from ..backend import JobQueueBackend
from ..dialects import Lane, get_dialect
from ..discovery import discover, is_imported, overlooked
from ..interrupts import JobCancelled, WorkerShutdown
from ..lifecycle import Pruner, Run, register, sign_off
from ..logs import get_logger
from ..middleware.chain import narrowing, project_layers
from ..middleware.lifespan import Lifespan
from ..models import Job
from .announcer import Announcer
from .awaited import Awaited
from .claimer import Claimer, Intake
from .completer import Completer, human
from .copies import in_copies, of_a_worker
from .desk import Desk
from .execution import Execution, fail
from .executors import EventLoop, Threads
from .heartbeat import Heartbeat
from .interrupting import interrupt
from .link import RECYCLE
from .maintenance import Maintenance
from .memory import resident
from .pace import Pace
from .recovery import Recovery
from .scheduler import Scheduler
from .stop import Stop
from .timekeeper import TIMEOUT_GRACE, Timekeeper
from .wakeup import Wakeup

logger = get_logger(__name__)

#: Seconds within which a signal is seen to, whichever thread gets it.
SIGNAL_LATENCY = 0.5
#: Seconds before each further try to register. A restart of the database takes no longer; what does is for whoever
#: started the worker, who wants to see it fail.
REGISTER_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
#: A statement of the worker's own has a third of the lease for its answer, and at least so many seconds.
LEAST_PATIENCE = 5.0


class Worker:
    """Run it with ``run()``; end it with ``stop()`` from any thread or signal handler.

    ``threads`` and ``async_slots`` say how many sync and async jobs run at once, ``shutdown_timeout`` for how many
    seconds running jobs may go on after ``stop()``, ``max_memory`` at how many MiB the worker stops,
    ``timeout_grace`` for how many seconds an interrupted task may go on before its process is given up for it.
    """

    def __init__(
        self,
        backend: JobQueueBackend,
        intake: Intake,
        *,
        threads: int = 4,
        async_slots: int = 100,
        shutdown_timeout: float = 30.0,
        max_memory: float | None = None,
        timeout_grace: float = TIMEOUT_GRACE,
        registered: Callable[[int], None] | None = None,
        signed_off: Callable[[int], None] | None = None,
    ) -> None:
        """``registered`` and ``signed_off`` are called with the worker's number when its row says so."""
        self.max_memory, self.registered, self.signed_off = max_memory, registered, signed_off
        self.backend, self.intake, self.shutdown_timeout = backend, intake, shutdown_timeout
        config = backend.config
        self.using = config.database
        get_dialect(self.using).patience = max(LEAST_PATIENCE, config.lease / 3)
        self.finished = threading.Event()
        #: What the process should end with: 0, unless something of ours broke.
        self.exit_code = 0
        self.desk = Desk(self.using)
        self.desk.refused = self._fail
        self.recovery = Recovery(self.using)
        self.timekeeper = Timekeeper(self._overdue, timeout_grace)
        #: For layers to put on what the process shares.
        self.state = SimpleNamespace()
        execution = self.execution = Execution(
            self, backend, self.timekeeper, self.recovery, given_up=self.desk.at_once.is_set
        )
        #: Runs that have been written off although their tasks still run: the process cannot end in peace.
        self.stuck: list[Run] = []
        self.threads = Threads(
            threads,
            execution,
            self._ended,
            self._may_start,
            lifespan=lambda: Lifespan(project_layers(), "thread_lifespan", self),
            fault=self._break_down,
            max_age=config.conn_max_age,
        )
        self.loop = EventLoop(
            async_slots,
            execution,
            self._ended,
            self._is_ours,
            threads=config.async_threads,
            max_age=config.conn_max_age,
        )
        self.paces = {False: Pace(self.threads), True: Pace(self.loop)}
        self.completer = Completer(
            self.using,
            busy=lambda: self.threads.load > 1 or self.loop.load > 1,
            written=self._written,
            refused=self._refused,
            fault=self._break_down,
            paces=self.paces,
            recovery=self.recovery,
        )
        self.announcer = Announcer(execution, caught_up=self._wake_claimer)
        self.awaited = Awaited(self.using)
        self.wakeup = Wakeup(
            self.using,
            intake.selector,
            poll=intake.poll,
            woken=self._woken,
            awaited=self.awaited.remember,
            recovery=self.recovery,
        )
        self.claimer = Claimer(
            self.desk,
            intake,
            self.threads,
            self.loop,
            self.completer,
            self.wakeup,
            self.announcer,
            self.recovery,
        )
        self.claimer.fault = self._break_down
        self.follower = self.claimer.follower
        self.heartbeat = Heartbeat(self.desk, config.lease, self._start_over, self._cancel, self.recovery)
        self.maintenance = Maintenance(
            self.using,
            lease=config.lease,
            pruner=Pruner(self.using, config.retentions, backend.archive),
            reaped=self._reaped,
            look_at_memory=self._look_at_memory,
            recovery=self.recovery,
            looked=self._wake_claimer,
        )
        self.claimer.has_reaped = lambda: self.maintenance.has_looked
        # who drains a queue would never come to an end beside a schedule of every second
        self.scheduler = Scheduler(self.using, self._wake_claimer, self.recovery) if intake.drain is None else None

    # -- the story -------------------------------------------------------------------------------

    def run(self) -> bool:
        """Work until stopped or drained. True if all ended well; False if jobs had to be left running in threads."""
        with of_a_worker():
            in_copies(self._let_go_in_copy)
            self._get_ready()
            with Lifespan(project_layers(), "worker_lifespan", self):
                return self._live()

    def _live(self) -> bool:
        self._boot()
        began = time.monotonic()
        try:
            # Python's handlers run in this thread, but the system may give the signal to another one, which does not
            # wake this one: so it wakes by itself.
            while not self.desk.stop_requested.wait(SIGNAL_LATENCY):
                pass
        finally:
            clean = Stop(self).carry_out()
            self._sign_off()
            self._say_goodbye(time.monotonic() - began)
            self.finished.set()
        return clean

    def stop(self) -> None:
        """Claim nothing more, let the running jobs end, give the others back. Callable from anywhere, any time."""
        self.desk.stop()

    def note_progress(self, job: Job, done: float, total: float | None, message: str) -> None:
        self.desk.note_progress(job, done, total, message)

    def interrupt_on_stop(self, job: Job) -> None:
        self.desk.interrupt_on_stop(job)

    def stop_at_once(self) -> None:
        """Do not wait for running jobs: they are recorded as interrupted and run again, at no cost."""
        self.desk.stop_at_once()

    def _break_down(self) -> None:
        self.exit_code = 1
        self.stop_at_once()

    @property
    def stopping(self) -> bool:
        return self.desk.stop_requested.is_set()

    @property
    def id(self) -> int:
        return self.desk.id

    @property
    def name(self) -> str:
        return self.desk.name

    @property
    def counts(self) -> Counter[str]:
        """How many attempts ended how."""
        return self.completer.counts

    # -- start -----------------------------------------------------------------------------------

    def _get_ready(self) -> None:
        self._find_tasks()
        # a middleware that cannot be made must end the worker before it takes a job
        self.claimer.lanes.narrow = narrowing(project_layers(), self)
        if self.memory_is_short:
            raise ImproperlyConfigured(f"Without any job the worker has {resident():.0f} MiB, more than --max-memory.")

    def _find_tasks(self) -> None:
        found = discover()
        if unseen := [path for path in overlooked(found) if not is_imported(path)]:
            logger.warning(
                "Nothing is enqueued for the schedules of %s: no worker imports their modules. Name these in "
                "JOBQUEUE_TASK_MODULES.",
                ", ".join(unseen),
            )

    def _boot(self) -> None:
        self._sign_on()
        self._introduce()
        parts = (self.completer, self.announcer, self.follower, self.threads, self.heartbeat, self.maintenance)
        for part in (*parts, self.claimer, self.wakeup):
            part.start()
        if self.scheduler is not None:
            self.scheduler.start()

    def _sign_on(self) -> None:
        with get_dialect(self.using).session():
            self._try_to_register()

    def _try_to_register(self) -> None:
        for pause in REGISTER_PAUSES:
            try:
                return self._register()
            except (OperationalError, InterfaceError) as error:
                logger.error("Cannot register: %s", str(error).strip())
                connections[self.using].close()
            if self.desk.stop_requested.wait(pause):
                break
        self._register()

    def _register(self) -> None:
        began = time.monotonic()
        row = register(
            self.using,
            queues=list(self.intake.selector.patterns),
            slots=self.threads.slots,
            lease=self.backend.config.lease,
        )
        if self.registered is not None:
            self.registered(row.pk)  # before anything is claimed under it
        self.desk.id, self.desk.name = row.pk, row.name
        self.desk.believed_until = began + self.backend.config.lease

    def _introduce(self) -> None:
        layers = ", ".join(getattr(layer, "__name__", type(layer).__name__) for layer in project_layers())
        logger.info(
            "Worker #%d (%s) takes jobs from queues: %s; %d threads, %d async slots; database %r; middleware: %s.",
            self.id,
            self.name,
            self.intake.selector,
            self.threads.slots,
            self.loop.slots,
            self.using,
            layers or "none",
        )
        self._warn_of_small_pool()

    def _warn_of_small_pool(self) -> None:
        pool = connections[self.using].settings_dict.get("OPTIONS", {}).get("pool")
        if not pool:
            return
        options = pool if isinstance(pool, Mapping) else {}
        size = options.get("max_size") or options.get("min_size", 4)
        wanted = self.threads.slots + self.backend.config.async_threads
        if size < wanted:
            logger.warning(
                "The pool of DATABASES[%r] has %d connections, the jobs of this worker may want %d at once: %d threads "
                "and %d for async jobs. Those beyond it wait, and fail when the pool's timeout is over.",
                self.using,
                size,
                wanted,
                self.threads.slots,
                self.backend.config.async_threads,
            )

    def _start_over(self) -> None:
        """The lease was lost: others have our jobs. What still runs here is void; go on under a new number."""
        old = self.id
        lost = self._lose(old)
        self._register()
        lost += self._lose(old)  # claimed in between
        logger.error("Worker #%d lost its lease, and %d jobs with it. It goes on as #%d.", old, lost, self.id)

    def _lose(self, old: int) -> int:
        """Let nothing go on, as far as may be, that was claimed under the old number; how many there were more."""
        lost = [run for run in list(self.desk.runs.values()) if run.worker_id == old and run.stop_reason != "lost"]
        for run in lost:
            run.stop_reason = "lost"
            interrupt(run, WorkerShutdown)  # nothing that it still does can be written
        return len(lost)

    # -- a job's way through the worker ----------------------------------------------------------

    def _may_start(self, run: Run) -> bool:
        if self.desk.may_start(run):
            return True
        self.desk.let_go(run)
        return False

    def _is_ours(self, run: Run) -> bool | None:
        """None: not known yet."""
        ours = self.desk.is_ours(run)
        if ours is False:
            self.desk.let_go(run)
        return ours

    def _ended(self, run: Run) -> None:
        self.completer.put(run)
        pace = self.paces[run.is_async]
        if pace.executor.load <= pace.low_water:
            self._wake_claimer()

    def _fail(self, run: Run, error: Exception) -> None:
        """It will not be run: the database refuses to have it back."""
        fail(run, error)
        self.completer.put(run)

    def _cancel(self, pk: int) -> None:
        run = self.desk.ask_to_stop(pk, "cancel")
        if run is not None:
            self.timekeeper.interrupt(run, JobCancelled)

    def _overdue(self, run: Run) -> None:
        """The task has been interrupted and goes on: end its attempt without it, and the process as soon as may be.

        Its thread is never replaced: a new process is, and there are never more threads at work than slots.
        """
        if self.desk.runs.get(run.job.pk) is run and run.stop_reason != "lost":
            outcome = self.execution.overdue(run)
            logger.error("%s: %s Worker #%d stops, to be replaced.", run.job, outcome.message, self.id)
            written_off = replace(run, ended=time.monotonic(), outcome=outcome)
            self.desk.hold(written_off)
            self.completer.put(written_off)
        self.stuck.append(run)
        if not self.stopping:
            self.exit_code = self.exit_code or RECYCLE
            self.stop()

    def _written(self, batch: Sequence[tuple[Run, str | None]]) -> None:
        for run, _ in batch:
            self.desk.let_go(run)
        if self.awaited.jobs:
            self.awaited.tell(batch)
        self.announcer.put(batch)
        if any(run.job.has_dependents for run, _ in batch):
            self.follower.look()
        if keys := {key for run, _ in batch if (key := run.job.concurrency_key) is not None}:
            self.follower.free(keys)
        if self.desk.idle:
            self._wake_claimer()

    def _refused(self, run: Run) -> None:
        """Its job stays ours in the database, and the completer goes on trying: it keeps all that it has to write."""
        self.desk.let_go(run)
        if self.desk.idle:
            self._wake_claimer()

    def _reaped(self, runs: Sequence[Run]) -> None:
        self.announcer.put([(run, run.job.status) for run in runs])
        self.follower.look()
        self.follower.look_at_keys()
        self._wake_claimer()

    @property
    def memory_is_short(self) -> bool:
        return self.max_memory is not None and resident() > self.max_memory

    def _look_at_memory(self) -> None:
        # Before the first job there is nothing that a new process would be without.
        if self.memory_is_short and self.claimer.claimed and not self.stopping:
            logger.warning(
                "Worker #%d has %.0f MiB, more than its %.0f; it stops.", self.id, resident(), self.max_memory
            )
            self.exit_code = RECYCLE
            self.stop()

    def _woken(self, lanes: Collection[Lane]) -> None:
        self.claimer.woken(lanes)

    def _wake_claimer(self) -> None:
        if not self.claimer.wake.is_set():
            self.claimer.wake.set()

    # -- in a process that a job forks -----------------------------------------------------------

    def _let_go_in_copy(self) -> None:
        """Nothing that is claimed here is the copy's to run or to write."""
        self.desk.let_go_in_copy()
        self.threads.let_go_in_copy()
        self.loop.let_go_in_copy()
        self.completer.let_go_in_copy()
        self.timekeeper.moments = {}

    # -- stop ------------------------------------------------------------------------------------

    def _sign_off(self) -> None:
        try:
            with get_dialect(self.using).session():
                sign_off(self.id, self.using)
            if self.signed_off is not None:
                self.signed_off(self.id)
        except (DatabaseError, InterfaceError) as error:
            logger.error("Worker #%d cannot sign off: %s; its lease will run out.", self.id, str(error).strip())

    def _say_goodbye(self, seconds: float) -> None:
        counts = ", ".join(f"{number:,} {state}" for state, number in self.counts.most_common()) or "no jobs"
        logger.info("Worker #%d stopped after %s: %s.", self.id, human(seconds), counts)
