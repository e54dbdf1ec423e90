"""manage.py runworker: options and errors."""

import logging
import signal
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.utils import autoreload

from django_jobqueue import enqueue_many
from django_jobqueue.backend import JobQueueBackend
from django_jobqueue.management import reloading
from django_jobqueue.management.commands.runworker import Command, find_backend, set_up_logging, stopped_by_signals
from django_jobqueue.models import Job, Worker

from ..lifecycle.steps import enqueue, fresh
from ..tasks import add, noop
from ..worker.workers import make_worker, working

OURS = "django_jobqueue.backend.JobQueueBackend"

#: A column without a CHECK: MariaDB 10.11 has once refused to rename one that has it, for "Unknown column in CHECK".
OLD_TABLES = [
    (
        "ALTER TABLE django_jobqueue_job RENAME COLUMN result_until TO was_result_until",
        "ALTER TABLE django_jobqueue_job RENAME COLUMN was_result_until TO result_until",
        "another release, without django_jobqueue_job.result_until",
    ),
    (
        "ALTER TABLE django_jobqueue_pause RENAME TO was_pause",
        "ALTER TABLE was_pause RENAME TO django_jobqueue_pause",
        "another release, without django_jobqueue_pause",
    ),
]


def rename(table, name):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")


def parsed(*args):
    """The options as the command line gives them."""
    parser = Command().create_parser("manage.py", "runworker")
    return vars(parser.parse_args(args))


def refused(*args):
    """The message of an option that cannot be."""
    with pytest.raises(CommandError) as error:
        call_command("runworker", *args)
    return str(error.value)


def worker_for(*args):
    return Command().make_worker(parsed(*args))


# -- running --------------------------------------------------------------------------------------


def test_draining_runs_everything_and_ends(queue_db):
    enqueue_many(add.s(number, 1) for number in range(5))
    call_command("runworker", "--drain", "0", "--no-progress")
    assert Job.objects.filter(status=Job.Status.SUCCESSFUL).count() == 5
    assert Worker.objects.get().status == Worker.Status.STOPPED


def test_queues_threads_and_the_maximum_reach_the_worker(queue_db):
    mine, other = enqueue(noop.using(queue_name="mail")), enqueue()
    call_command("runworker", "--queues", "mail,images*", "--threads", "3", "--max-jobs", "1")
    assert (fresh(mine).status, fresh(other).status) == ("SUCCESSFUL", "READY")
    row = Worker.objects.get()
    assert (row.queues, row.slots) == (["mail", "images*"], 3)


def test_options_have_sensible_defaults(db):
    worker = worker_for()
    assert (worker.threads.slots, worker.loop.slots, worker.shutdown_timeout) == (4, 100, 30.0)
    intake = worker.intake
    assert (intake.selector.patterns, intake.drain, intake.max_jobs, intake.poll) == ((), None, None, 2.0)


def test_all_options_reach_the_worker(db):
    worker = worker_for(
        *"--queues a,b* --threads 7 --async-slots 9 --max-jobs 5 --shutdown-timeout 1.5 --poll-interval 0.05".split()
    )
    assert (worker.threads.slots, worker.loop.slots, worker.shutdown_timeout) == (7, 9, 1.5)
    assert (worker.intake.selector.patterns, worker.intake.max_jobs, worker.intake.poll) == (("a", "b*"), 5, 0.05)


@pytest.mark.parametrize(("args", "seconds"), [([], None), (["--drain"], 10.0), (["--drain", "0"], 0.0)])
def test_drain_takes_seconds_or_none(args, seconds):
    assert parsed(*args)["drain"] == seconds


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--threads", "0"], "at least 1"),
        (["--threads", "many"], "many"),
        (["--async-slots", "-1"], "at least 1"),
        (["--max-jobs", "0"], "at least 1"),
        (["--queues", "a,,b"], "neither a queue's name"),
        (["--queues", "a*b"], "neither a queue's name"),
        (["--drain", "soon"], "soon"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_an_option_that_cannot_be_is_named(args, words):
    assert words in refused(*args)


def test_without_a_backend_of_ours_it_says_what_to_set(settings):
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    with pytest.raises(CommandError, match=r"django_jobqueue\.backend\.JobQueueBackend"):
        find_backend(None, None)


def test_a_backend_may_be_chosen_by_alias_or_database(settings):
    settings.TASKS = {"default": {"BACKEND": OURS}, "second": {"BACKEND": OURS, "OPTIONS": {"LEASE": 5}}}
    assert find_backend(None, None).alias == "default"
    assert find_backend("second", None).alias == "second"
    assert find_backend(None, "default").alias == "default"
    assert find_backend("second", "default").alias == "second"


@pytest.mark.parametrize(("alias", "database"), [("missing", None), ("default", "missing"), (None, "missing")])
def test_a_backend_that_is_not_there_is_named(alias, database):
    with pytest.raises(CommandError, match="missing"):
        find_backend(alias, database)


class Own(JobQueueBackend):
    """A project's own."""


def test_a_subclass_of_our_backend_is_ours(settings, db):
    settings.TASKS = {"default": {"BACKEND": f"{__name__}.Own", "OPTIONS": {"LEASE": 5}}}
    assert type(find_backend(None, None)) is Own
    call_command("jobqueue", "status")
    assert [message for message in run_checks() if message.id.startswith("jobqueue")] == []


def test_a_backend_that_does_not_import_is_named(settings):
    settings.TASKS = {"default": {"BACKEND": "shop.backends.Queue"}}
    with pytest.raises(CommandError, match=r"TASKS\['default'\].*'shop\.backends\.Queue'.*No module named 'shop'"):
        find_backend(None, None)


# -- where no worker can run ----------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--drain"], [], ["--processes", "2"]])
def test_inside_a_transaction_it_is_refused_at_once(db, args):
    assert connection.in_atomic_block
    message = refused(*args)
    assert "inside a transaction" in message and "run_jobs()" in message and "TransactionTestCase" in message
    assert connection.in_atomic_block and Worker.objects.count() == 0


async def _refused_in_a_thread_of_the_test():
    return await sync_to_async(refused)("--drain")


def test_from_an_async_test_too(db):
    assert "inside a transaction" in async_to_sync(_refused_in_a_thread_of_the_test)()


def test_with_autocommit_off_too(queue_db):
    transaction.set_autocommit(False)
    try:
        assert "inside a transaction" in refused("--drain")
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_the_operators_command_works_in_a_transaction(db, capsys):
    job = enqueue()
    call_command("jobqueue", "cancel", str(job.pk))
    call_command("jobqueue", "status")
    assert fresh(job).status == "CANCELLED" and connection.in_atomic_block


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's only")
def test_on_a_database_in_memory_it_is_refused_at_once(queue_db, monkeypatch):
    monkeypatch.setattr(type(connections["default"]), "is_in_memory_db", lambda self: True)
    message = refused("--drain")
    assert "database in memory" in message and "'TEST'" in message and "run_jobs()" in message


@pytest.mark.parametrize(("change", "back", "words"), OLD_TABLES)
def test_tables_of_another_release_are_one_sentence(queue_db, change, back, words):
    with connection.cursor() as cursor:
        cursor.execute(change)
        try:
            for command in (["runworker", "--drain"], ["runworker", "--processes", "2"], ["jobqueue", "status"]):
                with pytest.raises(CommandError, match=words) as error:
                    call_command(*command)
                assert "run manage.py migrate" in str(error.value) and "\n" not in str(error.value)
        finally:
            cursor.execute(back)


def test_a_drain_whose_tables_are_dropped_ends_and_says_so(queue_db, eventually, caplog):
    enqueue(noop.using(run_after=timedelta(seconds=600)))
    with working(drain=3600.0) as worker:
        eventually(lambda: Worker.objects.filter(status="RUNNING").exists())
        rename("django_jobqueue_job", "django_jobqueue_gone")
        try:
            assert worker.finished.wait(30)
        finally:
            rename("django_jobqueue_gone", "django_jobqueue_job")
    assert worker.exit_code == 1
    assert "without django_jobqueue_job: run manage.py migrate" in caplog.text


@pytest.mark.once
def test_the_reloader_looks_at_modules_that_failed(settings, monkeypatch, tmp_path):
    (tmp_path / "wrong.py").write_text("import wronger")
    (tmp_path / "wronger.py").write_text("def broken(:")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(autoreload, "_error_files", [])
    settings.JOBQUEUE_TASK_MODULES = ["wrong.tasks"]
    calls = []

    def work(**options):
        calls.append(options)
        if len(calls) == 1:
            raise CommandError("There are no tables.")

    monkeypatch.setattr(reloading, "RETRY", 0.0)
    reloading._work_when_it_can(work, threads=3)
    assert calls == [{"threads": 3}] * 2
    assert {str(tmp_path / "wrong.py"), str(tmp_path / "wronger.py")} <= set(autoreload._error_files)


@pytest.mark.once
def test_the_reloader_waits_for_a_file_to_change_or_a_signal(monkeypatch):
    monkeypatch.setattr(reloading, "INTERVAL", 0.0)
    assert not reloading._wait_for_change(reloading._times_of_files(), lambda: True)
    assert reloading._wait_for_change({}, lambda: False)


def test_an_option_of_the_backend_that_cannot_be_is_a_plain_error(settings):
    settings.TASKS = {"default": {"BACKEND": OURS, "OPTIONS": {"LEASE": -1}}}
    with pytest.raises(CommandError, match=r"OPTIONS\['LEASE'\] is -1"):
        find_backend(None, None)


# -- reloading, progress, signals, logging --------------------------------------------------------


@pytest.mark.parametrize(
    ("debug", "args", "expected"),
    [
        (True, [], True),
        (False, [], False),
        (True, ["--drain"], False),
        (True, ["--max-jobs", "1"], False),
        (True, ["--no-autoreload"], False),
        (False, ["--autoreload"], True),
        (True, ["--drain", "--autoreload"], True),
    ],
)
def test_code_is_reloaded_while_developing_and_not_for_a_worker_that_ends(settings, debug, args, expected):
    settings.DEBUG = debug
    assert Command().wants_reload(parsed(*args)) is expected


@pytest.mark.parametrize(
    ("terminal", "args", "expected"),
    [
        (True, ["--drain"], True),
        (False, ["--drain"], False),
        (False, ["--drain", "--progress"], True),
        (True, ["--drain", "--no-progress"], False),
        (True, [], False),
        (True, ["--progress"], False),
    ],
)
def test_a_bar_is_shown_while_draining_in_a_terminal(monkeypatch, terminal, args, expected):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    assert Command().shows_progress(parsed(*args)) is expected


def test_g6_the_first_signal_stops_gracefully_and_the_second_at_once(db, eventually):
    worker = make_worker()
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(worker):
        assert not worker.stopping
        signal.raise_signal(signal.SIGTERM)
        eventually(lambda: worker.stopping)
        assert not worker.desk.at_once.is_set()
        signal.raise_signal(signal.SIGINT)
        eventually(worker.desk.at_once.is_set)
    assert signal.getsignal(signal.SIGTERM) is before, "whoever called the command has them back"


def test_signals_are_left_alone_outside_the_main_thread(db):
    before, inside = signal.getsignal(signal.SIGTERM), []

    def run():
        with stopped_by_signals(make_worker()):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


def test_a_projects_own_logging_is_left_alone():
    logger = logging.getLogger("django_jobqueue")
    before = (list(logger.handlers), logger.level, logger.propagate)
    set_up_logging(2)  # pytest has handlers on the root logger
    assert (list(logger.handlers), logger.level, logger.propagate) == before


@pytest.mark.parametrize(("verbosity", "level"), [(0, "WARNING"), (1, "INFO"), (2, "DEBUG"), (3, "DEBUG")])
def test_without_any_logging_the_workers_own_lines_are_shown(monkeypatch, verbosity, level):
    logger = logging.Logger("django_jobqueue")
    own = SimpleNamespace(**vars(logging) | {"getLogger": lambda name: logger})
    monkeypatch.setattr("django_jobqueue.management.commands.runworker.logging", own)
    set_up_logging(verbosity)
    assert len(logger.handlers) == 1 and logging.getLevelName(logger.level) == level
