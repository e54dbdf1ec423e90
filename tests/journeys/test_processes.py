"""A supervisor and its workers: killed, stopped, worn out, and at rest."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job, Worker

from .conftest import outcomes, statuses, unfinished, wait_for_exit
from .tasks import async_work, work
from .test_deploy import both, is_alive
from .test_kill import check_story
from .wasteful import exit_well, hoard

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

#: Seconds; what is back sooner than that is not back because the lease was over.
LONG = 60.0


@pytest.fixture
def processes(journal) -> Callable[[], set[int]]:
    """All processes that the test has started, whoever's children they are by now."""
    mark = f"JOURNEY_JOURNAL={journal.path}".encode()

    def find() -> set[int]:
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.add(int(path.parent.name))
        return found

    return find


@pytest.fixture
def supervise(start_worker, processes, eventually) -> Iterator[Callable]:
    """``supervise(3, "--threads", 2)``: a supervisor whose workers have registered."""

    def start(number: int, *args: object, ready: bool = True, **env: str):
        before = Worker.objects.count()
        supervisor = start_worker("--processes", number, *args, options={"LEASE": LONG}, **env)
        if ready:
            eventually(lambda: Worker.objects.count() >= before + number, within=30)
        return supervisor

    yield start

    for pid in processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def held(worker: Worker) -> int:
    return Job.objects.running().filter(worker=worker).count()


def pids() -> list[int]:
    return list(Worker.objects.alive().order_by("pk").values_list("pid", flat=True))


# -- deaths ---------------------------------------------------------------------------------------


def test_g2_g3_a_dead_workers_jobs_are_back_at_once_and_it_is_replaced(
    queue_db, supervise, processes, journal, eventually
):
    enqueue_many([work.s(0.01) for _ in range(3000)])
    supervisor = supervise(3)
    victim = Worker.objects.first()
    eventually(lambda: held(victim) > 4, within=30, every=0.001)  # claimed ahead
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: not held(victim) and not Worker.objects.alive().filter(pk=victim.pk).exists(), within=15)
    print(f"back after {time.monotonic() - killed:.2f} s")  # noqa: T201
    assert Attempt.objects.filter(worker_id=victim.pk, outcome="lost").exists()
    victim.refresh_from_db()
    assert victim.status == "LOST"

    eventually(lambda: Worker.objects.alive().count() == 3, within=40)
    eventually(lambda: not unfinished(), within=40)
    assert time.monotonic() - killed < LONG
    newcomer = Worker.objects.latest("pk")
    assert newcomer.pk not in (victim.pk, None) and Worker.objects.count() == 4
    enqueue_many([work.s(0.05) for _ in range(200)])
    eventually(lambda: not unfinished(), within=40)
    assert Attempt.objects.filter(worker_id=newcomer.pk, outcome="succeeded").exists()

    supervisor.terminate()
    assert wait_for_exit(supervisor, 30) == 0
    assert processes() == set()
    check_story(journal)
    log = supervisor.log.read_text()
    assert f"process {victim.pid}, worker #{victim.pk} was ended by SIGKILL; the next starts in" in log


def test_g2_g6_workers_stop_when_their_supervisor_is_killed(queue_db, supervise, processes, journal, eventually):
    enqueue_many([work.s(0.02) for _ in range(2000)])
    supervisor = supervise(3)
    eventually(lambda: len({line.pid for line in journal.starts()}) == 3)
    assert len(processes()) == 4
    supervisor.kill()
    eventually(lambda: not processes(), within=15)
    assert set(Worker.objects.values_list("status", flat=True)) == {"STOPPED"}
    assert set(statuses()) == {"SUCCESSFUL", "READY"}, statuses()
    assert outcomes() == {"succeeded": statuses()["SUCCESSFUL"]}
    assert len(journal.lines("end")) == len(journal.starts()), "what ran was let run to its end"
    assert set(Job.objects.filter(status="READY").values_list("tries", "losses", "worker")) == {(0, 0, None)}


@pytest.mark.once
def test_g6_workers_outlive_their_terminal_for_as_long_as_their_jobs_need(
    queue_db, supervise, processes, journal, eventually
):
    """A terminal that is closed sends SIGHUP to all that were started in it, and nobody here waits for it."""
    work.enqueue(1.5)
    formerly = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, which children inherit
    try:
        supervisor = supervise(2)
    finally:
        signal.signal(signal.SIGHUP, formerly)
    eventually(lambda: journal.starts())
    os.killpg(supervisor.pid, signal.SIGHUP)
    assert wait_for_exit(supervisor) == -signal.SIGHUP
    eventually(lambda: not processes(), within=15)
    assert statuses() == {"SUCCESSFUL": 1} and outcomes() == {"succeeded": 1}


@pytest.mark.once
def test_g2_a_task_that_ends_its_process_with_0_is_no_good_end(queue_db, supervise, journal, eventually):
    """With --drain too: an exit code tells nothing about jobs, signing off does."""
    poison = exit_well.enqueue()
    enqueue_many([work.s(0.01) for _ in range(100)])
    supervisor = supervise(2, "--drain", 3, ready=False)
    assert wait_for_exit(supervisor, 60) == 0
    assert Job.objects.get(pk=poison.id).status == "FAILED"
    assert Job.objects.filter(status="SUCCESSFUL").count() == 100
    assert "in the middle of its work" in supervisor.log.read_text()


# -- stops ----------------------------------------------------------------------------------------


@both
def test_g6_a_signal_to_the_supervisor_stops_all(queue_db, supervise, processes, journal, eventually, number):
    """To its process group, as a terminal sends Ctrl-C: the workers are in groups of their own."""
    enqueue_many([work.s(0.02) for _ in range(1000)])
    supervisor = supervise(3)
    eventually(lambda: len({line.pid for line in journal.starts()}) == 3)
    os.killpg(supervisor.pid, number)
    assert wait_for_exit(supervisor) == 0
    assert processes() == set()
    assert set(Worker.objects.values_list("status", flat=True)) == {"STOPPED"}
    assert set(statuses()) == {"SUCCESSFUL", "READY"}
    assert set(outcomes()) == {"succeeded"}
    assert set(journal.started().values()) == {1}


@pytest.mark.once
def test_g6_a_signal_to_all_processes_counts_once(queue_db, supervise, processes, journal, eventually):
    """systemd sends SIGTERM to the whole control group: with what the supervisor passes on it must not be a second."""
    for _ in range(2):
        work.enqueue(1.5)
    supervisor = supervise(2, "--threads", 1)
    eventually(lambda: len(journal.starts()) == 2)
    for pid in processes():
        os.kill(pid, signal.SIGTERM)
    assert wait_for_exit(supervisor) == 0
    assert statuses() == {"SUCCESSFUL": 2} and outcomes() == {"succeeded": 2}


@pytest.mark.once
def test_g6_a_second_signal_stops_all_at_once(queue_db, supervise, processes, journal, eventually):
    enqueue_many([work.s(60), async_work.s(60), work.s(60)])
    supervisor = supervise(2, "--threads", 1, "--shutdown-timeout", 50)
    eventually(lambda: len(journal.starts()) == 3)
    supervisor.terminate()
    eventually(lambda: Worker.objects.filter(status="STOPPING").count() == 2, within=5)
    supervisor.terminate()
    assert wait_for_exit(supervisor, 6) == 0
    assert processes() == set()
    assert statuses() == {"READY": 3} and outcomes() == {"interrupted": 3}


@pytest.mark.once
def test_g6_a_signal_before_any_worker_has_registered_is_heard(queue_db, supervise, processes, eventually):
    supervisor = supervise(3, ready=False)
    eventually(lambda: len(processes()) > 1, every=0.002)
    supervisor.terminate()
    assert wait_for_exit(supervisor, 10) == 0
    assert processes() == set()
    assert not Worker.objects.alive().exists()


def test_g6_a_worker_that_dies_while_all_stop_holds_up_nobody(queue_db, supervise, processes, journal, eventually):
    enqueue_many([work.s(2), work.s(2)])
    supervisor = supervise(2, "--threads", 1)
    eventually(lambda: len(journal.starts()) == 2)
    supervisor.terminate()
    eventually(lambda: Worker.objects.filter(status="STOPPING").count() == 2, within=5, every=0.005)
    victim = Worker.objects.get(pid=journal.starts()[0].pid)
    os.kill(victim.pid, signal.SIGKILL)
    assert wait_for_exit(supervisor, 10) == 1
    assert processes() == set()
    assert statuses() == {"READY": 1, "SUCCESSFUL": 1} and outcomes() == {"lost": 1, "succeeded": 1}


# -- recycling ------------------------------------------------------------------------------------


def test_g2_max_jobs_replaces_each_worker_and_loses_nothing(queue_db, supervise, processes, journal):
    enqueue_many([work.s(0.002) for _ in range(300)])
    supervisor = supervise(2, "--max-jobs", 50, "--drain", 0, ready=False)
    assert wait_for_exit(supervisor, 60) == 0
    assert statuses() == {"SUCCESSFUL": 300} and outcomes() == {"succeeded": 300}
    assert set(journal.started().values()) == {1}
    shares = [worker.jobs.count() for worker in Worker.objects.all()]
    by_worker = {pk: Attempt.objects.filter(worker_id=pk).count() for pk in Worker.objects.values_list("pk", flat=True)}
    assert max(by_worker.values()) == 50 and len(by_worker) >= 6, (by_worker, shares)
    assert set(Worker.objects.values_list("status", flat=True)) == {"STOPPED"}
    assert "asked to be replaced; the next starts at once" in supervisor.log.read_text()


@pytest.mark.once
def test_g2_max_memory_replaces_a_worker_that_has_grown(queue_db, supervise, processes, eventually):
    supervisor = supervise(2, "--max-memory", 200)
    before = set(pids())
    hoard.enqueue(250)
    eventually(lambda: len(set(pids()) - before) == 1 and len(pids()) == 2, within=30)
    enqueue_many([work.s() for _ in range(20)])
    eventually(lambda: not unfinished(), within=20)
    assert outcomes() == {"succeeded": 21}
    log = supervisor.log.read_text()
    assert "MiB, more than its 200; it stops." in log
    assert "asked to be replaced; the next starts at once" in log
    supervisor.terminate()
    assert wait_for_exit(supervisor) == 0
    assert set(Worker.objects.values_list("status", flat=True)) == {"STOPPED"}


@pytest.mark.once
def test_max_memory_ends_a_worker_that_is_alone(queue_db, start_worker):
    hoard.enqueue(250)
    assert wait_for_exit(start_worker("--max-memory", 200), 30) == os.EX_TEMPFAIL
    assert statuses() == {"SUCCESSFUL": 1}
    assert Worker.objects.get().status == "STOPPED"


@pytest.mark.once
@pytest.mark.parametrize("number", [1, 2])
def test_a_max_memory_that_no_worker_could_keep_is_an_error(queue_db, start_worker, processes, number):
    process = start_worker("--max-memory", 10, "--processes", number)
    assert wait_for_exit(process, 30) == 1
    assert "more than --max-memory" in process.log.read_text()
    assert processes() == set() and not Worker.objects.exists()


def test_drain_ends_all(queue_db, supervise, processes, journal):
    # First a long one for each slot of the three: who comes late finds those that the others have no slots for.
    enqueue_many([work.s(3.0) for _ in range(12)] + [work.s(0.005) for _ in range(988)])
    supervisor = supervise(3, "--threads", 4, "--drain", 0.5, ready=False)
    assert wait_for_exit(supervisor, 60) == 0
    assert statuses() == {"SUCCESSFUL": 1000}
    assert len({line.pid for line in journal.starts()}) == 3
    assert processes() == set()
    assert list(Worker.objects.values_list("status", flat=True)) == ["STOPPED"] * 3


# -- what cannot start ----------------------------------------------------------------------------


@pytest.mark.once
def test_a_worker_that_can_no_longer_start_is_tried_again_and_not_too_often(
    queue_db, supervise, processes, eventually, tmp_path
):
    tries, module = tmp_path / "tries", tmp_path / "changing.py"
    module.write_text("")
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path), os.getcwd()])
    supervisor = supervise(2, JOURNEY_IMPORT="changing", PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
    module.write_text(f"open({str(tries)!r}, 'a').write('.')\nraise RuntimeError('half a deploy')\n")
    victim, other = pids()
    os.kill(victim, signal.SIGKILL)
    eventually(tries.exists, within=10)
    began = time.monotonic()
    time.sleep(4)
    eventually(lambda: len(tries.read_text()) > 1, within=20)
    took = time.monotonic() - began
    assert len(tries.read_text()) <= 2 + math.log2(1 + took / 0.75), "the pauses are 1, 2, 4 s, less a quarter at most"
    assert supervisor.poll() is None and pids() == [other]
    module.write_text("")
    eventually(lambda: len(pids()) == 2, within=15)
    supervisor.terminate()
    assert wait_for_exit(supervisor) == 0


@pytest.mark.once
def test_g6_a_signal_is_heard_while_a_worker_is_waited_for(queue_db, supervise, processes, eventually, tmp_path):
    module = tmp_path / "changing.py"
    module.write_text("")
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path), os.getcwd()])
    supervisor = supervise(2, JOURNEY_IMPORT="changing", PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
    module.write_text("raise RuntimeError('half a deploy')\n")
    for pid in pids():
        os.kill(pid, signal.SIGKILL)
    # twice each: the pause is two seconds then, and there is no child
    eventually(lambda: supervisor.log.read_text().count("with exit code 1; the next starts in") >= 2, within=15)
    eventually(lambda: processes() == {supervisor.pid}, within=5)
    supervisor.terminate()
    assert wait_for_exit(supervisor, 3) == 0


@pytest.mark.once
def test_workers_of_whom_none_can_start_end_the_supervisor(queue_db, start_worker, processes):
    supervisor = start_worker("--processes", 2, JOURNEY_IMPORT="tests.journeys.broken_module")
    assert wait_for_exit(supervisor, 20) == 1
    log = supervisor.log.read_text()
    assert "a setting is missing" in log and "there will be no other" in log
    assert processes() == set()


# -- at rest --------------------------------------------------------------------------------------


def test_a_supervisor_at_rest_does_nothing_and_has_no_connection(queue_db, supervise):
    supervisor = supervise(2)
    time.sleep(1)  # the last of the start
    before = switches(supervisor.pid)
    time.sleep(3)
    assert switches(supervisor.pid) - before <= 2, "each worker may just have told that it is alive"
    ends = [os.readlink(path) for path in Path(f"/proc/{supervisor.pid}/fd").iterdir()]
    assert sum(end.startswith("socket:") for end in ends) == 2, "the pair that signals go through"
    assert not [end for end in ends if end.endswith(".sqlite3")], ends


def switches(pid: int) -> int:
    """How often the process has gone to sleep: a process that polls does so all the time."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary_ctxt")
    ]
    return int(line.split()[1])


@pytest.mark.once
def test_each_worker_has_its_row_and_its_group(queue_db, supervise):
    supervisor = supervise(3)
    assert len(set(pids())) == 3
    assert {os.getpgid(pid) for pid in pids()} == set(pids())
    assert supervisor.pid not in pids() and all(map(is_alive, pids()))
