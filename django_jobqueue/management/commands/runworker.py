"""manage.py runworker"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_jobqueue.backend import JobQueueBackend
from django_jobqueue.compat import task_backends
from django_jobqueue.conf import BACKEND_PATH, backend_aliases
from django_jobqueue.dialects.schema import problem_of_tables
from django_jobqueue.lifecycle import QueueSelector
from django_jobqueue.management import reloading
from django_jobqueue.middleware.chain import project_layers
from django_jobqueue.worker.claimer import Intake
from django_jobqueue.worker.departure import depart, depart_now
from django_jobqueue.worker.link import RECYCLE, Link
from django_jobqueue.worker.progress import Progress
from django_jobqueue.worker.recovery import LATER
from django_jobqueue.worker.signals import ENDING, SignalPipe, hangup
from django_jobqueue.worker.supervisor import Supervisor
from django_jobqueue.worker.timekeeper import TIMEOUT_GRACE
from django_jobqueue.worker.worker import Worker

DEFAULT_THREADS = 4
#: Seconds until it is told again that a worker waits for its database.
TOLD_AGAIN = 30.0
IN_TESTS = "In a test, django_jobqueue.testing.run_jobs() runs the jobs on the test's own connection"


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be at least 1")
    return number


def queues(text: str) -> QueueSelector:
    try:
        return QueueSelector.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


class Command(BaseCommand):
    help = "Run the jobs of the queue until stopped."
    requires_migrations_checks = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--queues",
            type=queues,
            default=QueueSelector(),
            metavar="a,b*",
            help="Take jobs only from these queues, in this order: names, or prefixes with a *. Neighbors with a "
            "weight, as in mail=3,images=1, share a place in that order. Default: all queues.",
        )
        add(
            "--processes",
            type=positive,
            default=1,
            metavar="N",
            help="The number of worker processes. With more than one, this process starts them and replaces those that "
            "end (default: %(default)s).",
        )
        add(
            "--threads",
            type=positive,
            default=DEFAULT_THREADS,
            metavar="N",
            help="The number of sync jobs that each process runs at once (default: %(default)s).",
        )
        add(
            "--async-slots",
            type=positive,
            default=100,
            metavar="N",
            help="The number of async jobs that each process runs at once (default: %(default)s).",
        )
        add(
            "--drain",
            nargs="?",
            type=float,
            const=10.0,
            metavar="SECONDS",
            help="Stop when no job is left that is due within SECONDS (default: %(const)s).",
        )
        add(
            "--max-jobs",
            type=positive,
            metavar="N",
            help="Stop after N jobs. With --processes, each process stops after N jobs and is replaced.",
        )
        add(
            "--max-memory",
            type=positive,
            metavar="MIB",
            help="Stop when the process uses more memory than this. With --processes it is replaced.",
        )
        add(
            "--shutdown-timeout",
            type=float,
            default=30.0,
            metavar="SECONDS",
            help="How long running jobs may continue after a stop signal. Then they are interrupted, and run again "
            "elsewhere (default: %(default)s).",
        )
        add(
            "--timeout-grace",
            type=float,
            default=TIMEOUT_GRACE,
            metavar="SECONDS",
            help="How long a task may continue after its timeout or a cancel has interrupted it. Then the process "
            "stops, to be replaced (default: %(default)s).",
        )
        add(
            "--poll-interval",
            type=float,
            default=2.0,
            metavar="SECONDS",
            help="The longest pause between two polls of an empty queue while nothing wakes the worker "
            "(default: %(default)s).",
        )
        add("--backend", metavar="ALIAS", help="The alias in TASKS to work for. Default: the first of this package.")
        add("--database", metavar="ALIAS", help="Instead of --backend: work for the backend that keeps its jobs there.")
        add(
            "--autoreload",
            action=BooleanOptionalAction,
            default=None,
            help="Restart when code changes. Default: as DEBUG, except with --drain, --max-jobs and --processes.",
        )
        add(
            "--progress",
            action=BooleanOptionalAction,
            default=None,
            help="Show a progress bar while one process drains. Default: in a terminal.",
        )

    def check(self, *args: Any, **options: Any) -> Any:
        """Django's checks, of models too, are the first to ask the database: it may not be there yet."""
        wait_for_database(DEFAULT_DB_ALIAS, self.stderr.write)
        return super().check(*args, **options)

    def check_database(self, using: str) -> None:
        """Wait until it is there. Raise ``CommandError`` if a worker could not work with it as it is."""
        check_connections(using)
        wait_for_database(using, self.stderr.write)
        check_tables(using)

    def handle(self, **options: Any) -> None:
        if link := Link.from_environment():
            self.work(link, **options)
        elif options["processes"] > 1:
            self.supervise(options)
        elif self.wants_reload(options):
            reloading.run(self.work, **options)
        else:
            self.work(**options)

    def wants_reload(self, options: dict[str, Any]) -> bool:
        if options["autoreload"] is not None:
            return bool(options["autoreload"])
        return settings.DEBUG and options["drain"] is None and options["max_jobs"] is None

    def supervise(self, options: dict[str, Any]) -> None:
        """Find what cannot work before any process is started: each of them would say it, again and again."""
        if options["autoreload"]:
            raise CommandError("--autoreload is for one process: leave out either it or --processes.")
        if os.name == "nt" or threading.current_thread() is not threading.main_thread():
            raise CommandError("--processes needs POSIX signals, in the main thread of the process.")
        config = find_backend(options["backend"], options["database"]).config
        using = config.database
        self.check_database(using)
        project_layers()
        connections.close_all()
        set_up_logging(options["verbosity"], with_process=True)
        supervisor = Supervisor(
            options["processes"],
            using,
            shutdown_timeout=options["shutdown_timeout"],
            drain=options["drain"] is not None,
            lease=config.lease,
        )
        if code := supervisor.run():
            raise SystemExit(code)

    def work(self, link: Link | None = None, **options: Any) -> None:
        worker = self.make_worker(options, link)
        self.check_database(worker.using)
        set_up_logging(options["verbosity"], with_process=link is not None)
        code, clean = 1, True
        try:
            with stopped_by_signals(worker), Progress(worker, link is None and self.shows_progress(options)):
                if link is not None:
                    link.attach(worker)
                clean = worker.run()
            code = worker.exit_code
            if link is not None and not code and is_used_up(worker):
                code = RECYCLE
        finally:
            if threading.current_thread() is threading.main_thread():
                if not clean:  # a thread still runs its job, and might for ever: its work is void now
                    depart_now(code)
                if getattr(self, "_called_from_command_line", False):  # else the process is not ours to end
                    depart(code)
        if code:
            raise SystemExit(code)

    def make_worker(self, options: dict[str, Any], link: Link | None = None) -> Worker:
        intake = Intake(
            selector=options["queues"],
            poll=options["poll_interval"],
            drain=options["drain"],
            max_jobs=options["max_jobs"],
        )
        return Worker(
            find_backend(options["backend"], options["database"]),
            intake,
            threads=options["threads"],
            async_slots=options["async_slots"],
            shutdown_timeout=options["shutdown_timeout"],
            max_memory=options["max_memory"],
            timeout_grace=options["timeout_grace"],
            registered=link.registered if link else None,
            signed_off=link.signed_off if link else None,
        )

    def shows_progress(self, options: dict[str, Any]) -> bool:
        if options["drain"] is None:
            return False
        return sys.stderr.isatty() if options["progress"] is None else bool(options["progress"])


def find_backend(alias: str | None, database: str | None) -> JobQueueBackend:
    """The backend to work for. Raise ``CommandError`` saying what is missing."""
    for name in [alias] if alias else backend_aliases():
        try:
            backend = task_backends[name]
            if isinstance(backend, JobQueueBackend) and database in (None, backend.config.database):
                return backend
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
    which = f"no backend of django_jobqueue named {alias!r}" if alias else "no backend of django_jobqueue"
    where = f" that keeps its jobs in the database {database!r}" if database else ""
    raise CommandError(
        f'TASKS has {which}{where}. Set TASKS = {{"default": {{"BACKEND": "{BACKEND_PATH}"}}}}.'
        + "".join(_unusable_backends())
    )


def _unusable_backends() -> Iterator[str]:
    """One that does not import may be the one that was meant."""
    for name in task_backends:
        try:
            task_backends[name]
        except ImproperlyConfigured as error:
            yield f" TASKS[{name!r}]: {error}"


def wait_for_database(using: str, tell: Callable[[str], Any]) -> None:
    """A worker may well start before its server does, after a power failure for one: it waits as it does later on.

    Raise ``CommandError`` where there is no server: a file that cannot be opened now cannot be later.
    """
    connection, told_at = connections[using], -math.inf
    while True:
        try:
            return connection.ensure_connection()
        except OperationalError as error:
            problem = f"The database {using!r} cannot be reached: {str(error).strip()}"
            if connection.vendor == "sqlite" and "locked" not in problem:
                raise CommandError(f"{problem} ({connection.settings_dict['NAME']})") from None
            if time.monotonic() - told_at >= TOLD_AGAIN:
                told_at = time.monotonic()
                tell(f"{problem}\nThe worker waits for it. If that goes on, see DATABASES[{using!r}].")
        time.sleep(LATER)


def check_tables(using: str) -> None:
    """Raise ``CommandError`` if the tables are not there, or not those of this release."""
    if problem := problem_of_tables(using):
        raise CommandError(problem)


def check_connections(using: str) -> None:
    """Raise ``CommandError`` where the worker's own connections would not see the jobs, or not get at them."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or _is_in_manual_transaction(connection):
            raise CommandError(
                f"A worker cannot run inside a transaction, and one is open here on {connection.alias!r}: it has "
                f"connections of its own, which see nothing of it and may wait for it. {IN_TESTS}; for a real worker "
                "use a TransactionTestCase (with pytest-django transactional_db)."
            )
    database: Any = connections[using]
    if database.vendor == "sqlite" and database.is_in_memory_db():
        raise CommandError(
            f"A worker cannot run on SQLite's database in memory, as DATABASES[{using!r}] is here: its threads would "
            f"meet 'database table is locked'. For tests set DATABASES[{using!r}]['TEST'] = "
            f'{{"NAME": BASE_DIR / "test.sqlite3"}}. {IN_TESTS}.'
        )


def _is_in_manual_transaction(connection: BaseDatabaseWrapper) -> bool:
    return connection.connection is not None and connection.settings_dict["AUTOCOMMIT"] and not connection.autocommit


def is_used_up(worker: Worker) -> bool:
    """Has it run all the jobs of --max-jobs?"""
    return worker.intake.max_jobs is not None and worker.claimer.claimed >= worker.intake.max_jobs


@contextmanager
def stopped_by_signals(worker: Worker) -> Iterator[None]:
    """The first SIGTERM or SIGINT stops the worker gracefully, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        with reloading.ended_by_reloader(worker):
            yield
        return
    with SignalPipe([*ENDING, *hangup()]) as signals:
        thread = threading.Thread(target=stop_by, args=[signals, worker], name="jobqueue-signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signals.end()
            thread.join()


def stop_by(signals: SignalPipe, worker: Worker) -> None:
    """Counted, and no look at whether it stops already: it may do so for another reason, and need not hurry then."""
    counted = 0
    while True:
        for number in signals.read():
            if not number:
                return
            counted += 1
            (worker.stop if counted == 1 else worker.stop_at_once)()


class StandardError(logging.StreamHandler[Any]):
    """Writes to what ``sys.stderr`` is at the time: a progress bar puts itself in between while it runs."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        pass


def set_up_logging(verbosity: int, *, with_process: bool = False) -> None:
    """Show our log lines where the project has not said what to do with them."""
    logger = logging.getLogger("django_jobqueue")
    if logger.hasHandlers():
        return
    handler = StandardError()
    process = "[%(process)d] " if with_process else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process}%(levelname)-7s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel([logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2)])
    logger.propagate = False
