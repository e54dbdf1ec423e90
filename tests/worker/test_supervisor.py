"""The supervisor with children that play the part of workers; tests/journeys/test_processes.py has real ones."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections

from django_jobqueue.lifecycle import give_up, reap
from django_jobqueue.management.commands.runworker import stopped_by_signals
from django_jobqueue.models import Worker
from django_jobqueue.worker import children, loss_reporter
from django_jobqueue.worker import supervisor as module
from django_jobqueue.worker.children import Child, command_line, how_it_ended
from django_jobqueue.worker.link import ENVIRONMENT, RECYCLE, Link
from django_jobqueue.worker.loss_reporter import LossReporter
from django_jobqueue.worker.supervisor import LONGEST_PAUSE, Place, Supervisor

from ..lifecycle.steps import USING, enqueue, fall_silent, fresh, outcomes, started, take_one, worker
from .workers import make_worker

pytestmark = pytest.mark.once

#: What each child does first: say that it listens, and that it is worker 1.
REGISTER = """
import os, signal, sys, time
orders, reports = map(int, os.environ["DJANGO_JOBQUEUE_LINK"].split(","))
tell = lambda line: os.write(reports, line.encode() + b"\\n")
tell("listening"); tell("registered 1")
"""
SIGN_OFF = "tell('signed_off 1');"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class Reporter:
    """Takes down who is reported."""

    def __init__(self) -> None:
        self.dead: list[int] = []

    def report(self, worker_id: int) -> None:
        self.dead.append(worker_id)

    def join(self, seconds: float) -> None:
        pass


def make(code: str, processes: int = 1, *, drain: bool = False, shutdown_timeout: float = 5.0) -> Supervisor:
    supervisor = Supervisor(processes, USING, shutdown_timeout=shutdown_timeout, drain=drain, command=python(code))
    supervisor.reporter = Reporter()
    return supervisor


@contextmanager
def signals(*, when: Callable[[], bool] = lambda: True, after: Sequence[float] = (0.0,)) -> Iterator[None]:
    """SIGTERM to this process, so many seconds after something has come true."""
    over = threading.Event()

    def send() -> None:
        while not when() and not over.wait(0.02):
            pass
        began = time.monotonic()
        for pause in after:
            if not over.wait(max(0.0, began + pause - time.monotonic())):
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def child(code: str) -> Iterator[Child]:
    one = Child(python(code))
    try:
        yield one
    finally:
        one.kill()
        one.process.wait()
        one.bury()


# -- children -------------------------------------------------------------------------------------


def test_a_child_is_started_as_this_process_was():
    assert command_line() == [sys.executable, *sys.orig_argv[1:]]


def test_a_child_inherits_two_pipes_and_nothing_else(tmp_path, eventually):
    """Not our ends of its brothers' pipes either: they would keep those from seeing that we are gone."""
    found = tmp_path / "found"
    listing = (
        "import fcntl\n"
        "def is_open(end):\n"
        "    try: return fcntl.fcntl(end, fcntl.F_GETFD) >= 0\n"
        "    except OSError: return False\n"
        "others = [end for end in range(3, 1000) if is_open(end) and end not in (orders, reports)]\n"
        f"open({str(found)!r}, 'w').write(repr(others))"
    )
    with open(tmp_path / "of the supervisor", "w"), child("import time; time.sleep(30)"), child(REGISTER + listing):
        eventually(lambda: found.exists() and found.read_text() == "[]")


def test_a_child_hears_and_is_heard(eventually):
    with child(REGISTER + "print(os.read(orders, 1)); tell('signed_off 1'); sys.exit(0)") as one:
        eventually(lambda: one.listen() and one.listening)
        assert one.worker_id == 1 and not one.signed_off and not one.is_settled
        one.stop()
        eventually(lambda: one.code is not None)
        one.listen()
        assert one.signed_off and one.ended_well


def test_what_comes_in_pieces_is_put_together(eventually):
    with child(REGISTER + "os.write(reports, b'regis'); time.sleep(.3); os.write(reports, b'tered 2\\nsig')") as one:
        eventually(lambda: (one.listen(), one.worker_id == 2)[1])
        assert not one.signed_off


@pytest.mark.parametrize(
    ("end", "well", "words"),
    [
        (SIGN_OFF, True, "ended with exit code 0"),
        (SIGN_OFF + f"sys.exit({RECYCLE})", True, "asked to be replaced"),
        (SIGN_OFF + "sys.exit(1)", False, "ended with exit code 1"),
        ("os._exit(0)", False, "ended with exit code 0 in the middle of its work"),
        ("os.kill(os.getpid(), signal.SIGKILL)", False, "was ended by SIGKILL"),
        (f"os.kill(os.getpid(), {signal.SIGRTMIN + 1})", False, f"was ended by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_g2_an_end_is_good_if_the_worker_has_signed_off(eventually, end, well, words):
    with child(REGISTER + end) as one:
        eventually(lambda: one.code is not None)
        one.listen()
        assert (one.ended_well, how_it_ended(one)) == (well, words)


# -- pauses ---------------------------------------------------------------------------------------


class Ended:
    def __init__(self, code: int = 1, *, settled: bool = False, worker_id: int | None = 1) -> None:
        self.code, self.is_settled, self.worker_id = code, settled, worker_id


def test_pauses_grow_while_children_end_young():
    place = Place()
    for longest in (1, 2, 4, 8, 16, 30, 30):
        assert 0.75 * longest <= place.pause(Ended()) <= longest
    assert place.pause(Ended(settled=True)) == 0
    assert place.pause(Ended()) <= 1, "and begin anew"
    for _ in range(2000):  # no overflow
        place.pause_after_failure()
    assert place.pause_after_failure() <= LONGEST_PAUSE


def test_what_asks_to_be_replaced_is_replaced_at_once():
    assert Place().pause(Ended(RECYCLE)) == 0
    assert Place().pause(Ended(RECYCLE, worker_id=None)) > 0, "but not what has not worked"


# -- the supervisor -------------------------------------------------------------------------------


def test_g2_a_child_that_dies_is_reported_and_replaced_after_a_pause(tmp_path):
    tries = tmp_path / "tries"
    supervisor = make(REGISTER + f"open({str(tries)!r}, 'a').write('.'); os._exit(0)")
    began = time.monotonic()
    with signals(when=lambda: tries.exists() and len(tries.read_text()) == 2):
        supervisor.run()
    assert supervisor.reporter.dead == [1, 1]
    assert 0.75 < time.monotonic() - began < 5


def test_a_child_that_ends_well_is_not_replaced_while_draining():
    supervisor = make(REGISTER + SIGN_OFF, 3, drain=True)
    assert supervisor.run() == 0
    assert supervisor.reporter.dead == []


def test_a_child_that_does_nothing_is_no_drained_one():
    """What the command line starts may be anything: a shell, a test runner."""
    assert make("pass", drain=True).run() == 1


def test_a_command_that_cannot_be_started_is_tried_again(caplog):
    supervisor = make("")
    supervisor.command = ["/nowhere/python"]
    with signals(after=[1.5]):
        assert supervisor.run() == 0
    assert 2 <= caplog.text.count("cannot start a process") <= 3


def test_g6_what_does_not_stop_is_killed_with_what_it_has_started(monkeypatch, tmp_path, eventually):
    monkeypatch.setattr(module, "KILL_AFTER", 0.5)
    pids = tmp_path / "pids"
    stubborn = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"if not os.fork(): open({str(pids)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    supervisor = make(REGISTER + stubborn, shutdown_timeout=0.5)
    began = time.monotonic()
    with signals(when=pids.exists):
        assert supervisor.run() == 1
    assert 0.9 < time.monotonic() - began < 5
    assert supervisor.reporter.dead == [1]
    eventually(lambda: not is_running(int(pids.read_text())))


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_g6_a_second_signal_does_not_wait_for_the_grace(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "KILL_AFTER", 0.5)
    there = tmp_path / "there"
    stubborn = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(there)!r}, 'w'); time.sleep(60)"
    supervisor = make(REGISTER + stubborn, shutdown_timeout=50)
    began = time.monotonic()
    with signals(when=there.exists, after=[0.0, 0.4]):
        assert supervisor.run() == 1
    assert time.monotonic() - began < 6


def test_g6_a_child_that_hangs_in_its_start_does_not_get_the_grace():
    supervisor = make("import time; time.sleep(60)", shutdown_timeout=50)
    with signals(after=[0.5]):
        assert supervisor.run() == 0


# -- children that are not heard of


BEAT = """
def beat(times, pause=0.05):
    for _ in range(times):
        time.sleep(pause); tell("alive")
"""


@pytest.fixture
def attentive(monkeypatch):
    """Make supervisors for whom a second of silence is long."""
    monkeypatch.setattr(children, "SHORTEST_SILENCE", 1.0)
    monkeypatch.setattr(children, "SETTLED", 0.0)

    def start(code: str) -> Supervisor:
        supervisor = make(REGISTER + BEAT + code)
        supervisor.lease = 1.0
        return supervisor

    return start


def test_g2_a_child_that_is_not_heard_of_is_killed_reported_and_replaced(attentive, tmp_path, caplog):
    tries = tmp_path / "tries"
    supervisor = attentive(f"open({str(tries)!r}, 'a').write('.'); beat(40); time.sleep(60)")
    began = time.monotonic()
    with signals(when=lambda: tries.exists() and len(tries.read_text()) == 2):
        supervisor.run()
    assert supervisor.reporter.dead[0] == 1
    assert time.monotonic() - began > 2.9, "not while it could be heard"
    assert "worker #1 has not been heard of for" in caplog.text


def test_g2_a_child_that_has_signed_off_and_does_not_end_is_killed(attentive, monkeypatch, caplog):
    monkeypatch.setattr(children, "LEAVING", 0.5)
    supervisor = attentive(SIGN_OFF + "time.sleep(60)")
    supervisor.drain = True
    with signals(when=lambda: "does not end" in caplog.text):
        supervisor.run()
    assert supervisor.reporter.dead == []


def test_a_child_may_take_its_time_before_it_registers(attentive):
    supervisor = attentive("")
    supervisor.command = python("import time; time.sleep(1); raise SystemExit(1)")
    assert supervisor.run() == 1
    assert supervisor.reporter.dead == []


def test_a_child_that_somebody_has_stopped_is_not_killed(attentive, monkeypatch, tmp_path, caplog):
    """With SIGSTOP, or with a debugger. It goes on later, and has its time to be heard of again then."""
    monkeypatch.setattr(children, "SHORTEST_SILENCE", 4.0)  # a busy machine may let it wait for a while, too
    pids, found_held = tmp_path / "pids", threading.Event()

    class Watched(Child):
        def is_held(self) -> bool:
            if held := super().is_held():
                found_held.set()
            return held

    monkeypatch.setattr(module, "Child", Watched)
    beating = "import select\nwhile not select.select([orders], [], [], 0.05)[0]: tell('alive')\n"
    supervisor = attentive(f"open({str(pids)!r}, 'w').write(str(os.getpid()))\n{beating}{SIGN_OFF}")

    def hold() -> bool:
        pid = int(pids.read_text())
        os.kill(pid, signal.SIGSTOP)
        found_held.wait(60)
        os.kill(pid, signal.SIGCONT)
        one, since = supervisor.places[0].child, time.monotonic()
        while one is not None and one.heard_at < since and not one.killed:
            time.sleep(0.02)
        return True

    with signals(when=lambda: pids.exists() and pids.read_text() != "" and hold()):
        assert supervisor.run() == 0
    assert found_held.is_set()
    assert "is killed" not in caplog.text


def test_a_standstill_of_the_supervisor_is_not_held_against_its_children(attentive):
    supervisor = attentive("")
    with child(REGISTER + "time.sleep(60)") as one:
        supervisor.places[0].child = one
        while one.worker_id is None:
            one.listen()
        now = time.monotonic()
        one.heard_at, supervisor._looks_by = now - 1000.0, now - 999.9  # both were suspended
        supervisor._kill_the_silent()
        assert not one.killed
        one.heard_at, supervisor._looks_by = now - 1000.0, now
        supervisor._kill_the_silent()
        assert one.killed
        supervisor.places[0].child = None


def test_g6_a_burst_of_signals_deadlocks_nothing(db):
    """Hundreds of them, some within microseconds, while the main thread sets the very events that they set too."""
    worker, over = make_worker(), threading.Event()

    def send() -> None:
        for _ in range(300):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        over.set()

    with stopped_by_signals(worker):
        sender = threading.Thread(target=send)
        sender.start()
        while not over.is_set():
            worker.stop()
            worker.stop_at_once()
            worker.desk.stop_requested.wait(0.0001)
            worker.desk.stop_requested.clear()
            worker.desk.at_once.clear()
        sender.join()


def test_g6_a_burst_of_signals_stops_a_supervisor(tmp_path):
    there = tmp_path / "there"
    supervisor = make(REGISTER + f"open({str(there)!r}, 'w'); os.read(orders, 1); {SIGN_OFF}")
    with signals(when=there.exists, after=[0.0] * 300):
        assert supervisor.run() == 0


def test_signals_are_the_callers_again_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    make(REGISTER + SIGN_OFF, drain=True).run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)] == before
    assert signal.set_wakeup_fd(-1) == -1


# -- lost jobs ------------------------------------------------------------------------------------


def test_g2_the_jobs_of_a_dead_worker_are_given_back_long_before_its_lease_is_over(queue_db):
    dead, living = started(), started()
    reporter = LossReporter(USING)
    reporter.report(dead.worker_id)
    reporter.join(10)
    assert (fresh(dead).status, fresh(living).status) == ("READY", "RUNNING")
    assert outcomes(dead) == ["lost"] and outcomes(living) == []
    row = Worker.objects.get(pk=dead.worker_id)
    assert row.status == "LOST" and row.stopped_at is not None


def test_g2_a_report_waits_for_a_database_that_is_away(queue_db, monkeypatch, caplog):
    job, answers = started(), iter([OperationalError("gone"), RuntimeError("strange")])

    def away(*args):
        for error in answers:
            raise error
        return give_up(*args)

    monkeypatch.setattr(loss_reporter, "give_up", away)
    reporter = LossReporter(USING)
    reporter.report(job.worker_id)
    reporter.join(10)
    assert fresh(job).status == "READY"
    assert "cannot be given back yet: gone" in caplog.text and "strange" in caplog.text


def test_c2_more_dead_workers_than_are_remembered_are_left_to_their_leases(queue_db, monkeypatch):
    jobs, may_report = [started() for _ in range(6)], threading.Event()

    def slow(*args):
        assert may_report.wait(30)
        return give_up(*args)

    monkeypatch.setattr(loss_reporter, "MANY", 4)
    monkeypatch.setattr(loss_reporter, "give_up", slow)
    reporter = LossReporter(USING)
    for job in jobs:
        reporter.report(job.worker_id)
    assert len(reporter._dead) == 4
    may_report.set()
    reporter.join(30)
    assert [fresh(job).status for job in jobs] == ["READY"] * 4 + ["RUNNING"] * 2
    for job in jobs[4:]:
        fall_silent(Worker.objects.get(pk=job.worker_id))
    reap(USING)
    assert {fresh(job).status for job in jobs} == {"READY"}, "nothing is lost"


def test_workers_that_have_stopped_are_not_given_up(queue_db):
    stopped = worker()
    Worker.objects.filter(pk=stopped.pk).update(status=Worker.Status.STOPPED)
    alive = worker()
    assert give_up([stopped.pk, alive.pk, 10**9], USING) == 1
    assert dict(Worker.objects.values_list("pk", "status")) == {stopped.pk: "STOPPED", alive.pk: "LOST"}


def test_g4_a_worker_that_was_given_up_claims_nothing_that_lasts(queue_db):
    holder = worker()
    give_up([holder.pk], USING)
    job = enqueue()
    take_one(holder)
    reporter = LossReporter(USING)
    reporter.report(holder.pk)
    reporter.join(10)
    assert fresh(job).status == "READY"


# -- the link, from the worker's side -------------------------------------------------------------


@pytest.fixture
def link(monkeypatch):
    """A link, and the supervisor's ends of it: where it writes, where it reads."""
    orders, ours = os.pipe()
    theirs, reports = os.pipe()
    monkeypatch.setenv(ENVIRONMENT, f"{orders},{reports}")
    with open(ours, "wb", buffering=0) as ours, open(theirs, "rb", buffering=0) as theirs:
        yield Link.from_environment(), ours, theirs


def test_only_a_child_of_a_supervisor_has_a_link(link):
    assert ENVIRONMENT not in os.environ, "what a job starts is not a child of the supervisor"
    assert Link.from_environment() is None


def test_g6_a_worker_stops_when_it_is_told_to(db, link, eventually):
    line, orders, _ = link
    one = make_worker()
    line.attach(one)
    orders.write(b"s")
    eventually(lambda: one.stopping)
    assert not one.desk.at_once.is_set()
    orders.write(b"q")
    eventually(one.desk.at_once.is_set)


def test_g6_a_worker_stops_when_nobody_can_tell_it_any_more(db, link, eventually):
    line, orders, reports = link
    one = make_worker()
    line.attach(one)
    reports.close()
    line.registered(1)  # nobody listens, and nothing is raised
    assert not one.stopping
    orders.close()
    eventually(lambda: one.stopping)
    assert not one.desk.at_once.is_set()


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def unstarted(monkeypatch):
    """Nothing may be started in these tests; what would have been is in the list."""
    made = []

    def run(supervisor):
        assert connections[USING].connection is None, "it has none while it waits"
        made.append(supervisor)
        return 0

    monkeypatch.setattr(Supervisor, "run", run)
    return made


def runworker(*args: object) -> None:
    call_command("runworker", "--processes", *map(str, args))


def test_the_options_reach_the_supervisor(queue_db, unstarted):
    runworker(3, "--shutdown-timeout", 2, "--drain")
    runworker(2, "--no-autoreload")
    assert [(len(one.places), one.shutdown_timeout, one.drain) for one in unstarted] == [
        (3, 2.0, True),
        (2, 30.0, False),
    ]
    assert all(one.reporter.using == "default" for one in unstarted)


def test_code_is_not_reloaded_under_a_supervisor(queue_db, unstarted, settings):
    settings.DEBUG = True
    runworker(2)
    assert unstarted
    with pytest.raises(CommandError, match="--autoreload is for one process"):
        runworker(2, "--autoreload")


def test_a_supervisor_wants_signals(db, unstarted):
    said = []

    def run():
        try:
            runworker(2)
        except CommandError as error:
            said.append(str(error))
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert said == ["--processes needs POSIX signals, in the main thread of the process."]


def complaint(*args: object) -> tuple[type, str]:
    with pytest.raises(Exception) as error:
        call_command("runworker", *map(str, args))
    return type(error.value), str(error.value)


@pytest.mark.parametrize("number", [0, "two"])
def test_a_number_of_processes_that_cannot_be_is_named(number):
    assert "--processes" in complaint("--processes", number)[1]


def test_what_one_worker_would_complain_of_a_supervisor_does_too(queue_db, unstarted, settings, monkeypatch):
    def same(*args):
        first = complaint(*args)
        assert complaint("--processes", 2, *args) == first
        return first

    assert same("--backend", "missing")[0] is CommandError
    settings.JOBQUEUE_MIDDLEWARE = ["tests.no_such_module.Layer"]
    assert "no_such_module" in same()[1]
    monkeypatch.setattr("django_jobqueue.models.Job._meta.db_table", "not_there")
    assert "has the tables of another release, without not_there" in same()[1]
    assert not unstarted
    assert ENVIRONMENT not in os.environ


def test_g6_a_worker_that_stops_by_itself_need_not_hurry_at_the_first_signal(db):
    one = make_worker()
    with stopped_by_signals(one):
        one.stop()  # it has had its --max-jobs
        signal.raise_signal(signal.SIGTERM)
    assert not one.desk.at_once.is_set()
    with stopped_by_signals(one):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert one.desk.at_once.is_set()
