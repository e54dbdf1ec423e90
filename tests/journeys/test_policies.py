"""Limits and callbacks over several processes, some of which are killed."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from django.db import connection
from django.db.models import Exists, OuterRef

from django_jobqueue import enqueue_many
from django_jobqueue.models import Job, Permit

from .conftest import is_working, outcomes, statuses, unfinished, wait_for_exit
from .policy_tasks import SLOTS, STARTS, crowded, followed, leads, paced

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

PROCESSES = 4
#: Long enough for two busy cores: a worker that loses its lease and lives is not what is tested here.
LEASE = {"LEASE": 6}


class Observer(threading.Thread):
    """Counts, on a connection of its own, the jobs that hold a slot."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: Counter[int] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        holder = Job.objects.running().filter(pk=OuterRef("job_id"), token=OuterRef("token"))
        while not self.done.is_set():
            self.samples[Permit.objects.filter(Exists(holder)).count()] += 1
            time.sleep(0.005)
        connection.close()


@pytest.fixture
def observer():
    one = Observer()
    one.start()
    yield one
    one.done.set()
    one.join(20)


def most_at_once(journal) -> int:
    """By the notes of the tasks themselves; those that died with their process left only one."""
    ends = {(line.job, line.attempt): line.time for line in journal.lines("end")}
    spans = [(line.time, ends[line.job, line.attempt]) for line in journal.starts() if (line.job, line.attempt) in ends]
    moments = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = here = 0
    for _, step in moments:
        here += step
        most = max(most, here)
    return most


def test_g10_a_concurrency_limit_holds_over_processes_that_are_killed(
    queue_db, start_worker, journal, observer, eventually
):
    enqueue_many([crowded.s(0.02 * (number % 4)) for number in range(120)])
    crew = [start_worker("--threads", 4, options=LEASE) for _ in range(PROCESSES)]
    for number in range(2):
        eventually(lambda number=number: len(journal.lines("end")) >= 20 * (number + 1), within=60)
        crew[number].kill()
        crew[number].wait()
        crew[number] = start_worker("--threads", 4, options=LEASE)
    eventually(lambda: not unfinished(), within=120, every=0.1)
    assert statuses() == {"SUCCESSFUL": 120}
    assert max(observer.samples) == SLOTS >= most_at_once(journal)
    assert sum(number > 0 for number in observer.samples.elements()) > 20, "it has looked"
    print(f"samples {sorted(observer.samples.items())}, attempts {outcomes()}")  # noqa: T201
    for process in crew:
        eventually(lambda process=process: is_working(process), within=30)
        process.terminate()
    assert [wait_for_exit(process) for process in crew] == [0] * PROCESSES


def test_g10_a_rate_limit_holds_over_processes(queue_db, start_worker, journal, eventually):
    enqueue_many([paced.s() for _ in range(30)])
    seen: dict[int, object] = {}
    for _ in range(PROCESSES):
        start_worker("--threads", 4, options=LEASE)

    def done():
        seen.update(Permit.objects.values_list("number", "taken_at"))
        return not unfinished()

    eventually(done, within=60)
    # a permit is deleted a second after it was drawn at the earliest: a busy machine may miss a few
    apart = [(seen[number + STARTS] - seen[number]).total_seconds() for number in seen if number + STARTS in seen]
    assert len(apart) > 10 and min(apart) >= 1
    assert len(journal.starts()) == 30 and statuses() == {"SUCCESSFUL": 30}
    assert len({line.pid for line in journal.starts()}) > 1, "more than one process was at work"
    assert (max(seen.values()) - min(seen.values())).total_seconds() < 15


def test_g17_a_process_that_dies_before_the_commit_leaves_neither_outcome_nor_callback(
    queue_db, start_worker, journal, eventually
):
    job = int(leads.enqueue().id)
    killed = start_worker(options={"LEASE": 2})
    assert wait_for_exit(killed, 30) == -9
    assert Job.objects.get(pk=job).status == "RUNNING"
    assert not Job.objects.filter(task_path=followed.module_path).exists()
    start_worker(options={"LEASE": 2})
    eventually(lambda: journal.lines("followed"), within=30)
    assert Job.objects.get(pk=job).status == "SUCCESSFUL"
    assert Job.objects.filter(task_path=followed.module_path).count() == 1
    assert len(journal.starts()) == 2
