"""Limits and callbacks over several processes, some of which are killed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest
from django.db import connection
from django.db.models import Count

from django_jobqueue import enqueue_many
from django_jobqueue.models import Job, Permit

from .conftest import is_working, outcomes, statuses, unfinished, wait_for_exit
from .policy_tasks import (
    LINES,
    SLOTS,
    STARTS,
    TENANT_SLOTS,
    TENANTS,
    crowded,
    followed,
    in_turn,
    leads,
    of_tenant,
    paced,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

PROCESSES = 4
#: Long enough for two busy cores: a worker that loses its lease and lives is not what is tested here.
LEASE = {"LEASE": 6}


class Observer(threading.Thread):
    """Counts, on a connection of its own, the running jobs of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.most: Counter[str] = Counter()
        self.samples = 0
        self.done = threading.Event()

    def run(self) -> None:
        running = Job.objects.running().values_list("concurrency_key").annotate(Count("pk")).order_by()
        while not self.done.is_set():
            for key, number in running.all():
                self.most[key] = max(self.most[key], number)
            self.samples += 1
            time.sleep(0.005)
        connection.close()


@pytest.fixture
def observer():
    one = Observer()
    one.start()
    yield one
    one.done.set()
    one.join(20)


def most_at_once(journal, jobs) -> int:
    """By the notes of the tasks themselves; those that died with their process left only one."""
    ends = {(line.job, line.attempt): line.time for line in journal.lines("end")}
    starts = [line for line in journal.starts() if line.job in jobs]
    spans = [(line.time, ends[line.job, line.attempt]) for line in starts if (line.job, line.attempt) in ends]
    moments = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = here = 0
    for _, step in moments:
        here += step
        most = max(most, here)
    return most


def test_g10_a_concurrency_limit_holds_over_processes_that_are_killed(
    queue_db, start_worker, journal, observer, eventually
):
    """Two thousand jobs: of one key with three slots, of forty keys with two each, of ten keys that run in order."""
    calls = [
        *(crowded.s(0.01 * (number % 3)) for number in range(200)),
        *(of_tenant.s(number % TENANTS) for number in range(1400)),
        *(in_turn.s(number % LINES) for number in range(400)),
    ]
    random.Random(10).shuffle(calls)  # but for the order within a key, which is that of the enqueue
    enqueue_many(calls)
    crew = [start_worker("--threads", 4, options=LEASE) for _ in range(PROCESSES)]
    for number in range(4):
        eventually(lambda number=number: len(journal.lines("end")) >= 300 * (number + 1), within=120)
        crew[number].kill()
        crew[number].wait()
        crew[number] = start_worker("--threads", 4, options=LEASE)
    eventually(lambda: not unfinished(), within=240, every=0.1)
    assert statuses() == {"SUCCESSFUL": len(calls)}
    keys = dict(Job.objects.values_list("pk", "concurrency_key"))
    slots = {"crew": SLOTS} | {f"tenant-{number}": TENANT_SLOTS for number in range(TENANTS)}
    slots |= {f"line-{number}": 1 for number in range(LINES)}
    assert set(keys.values()) == set(slots)
    for key, most in slots.items():
        assert most_at_once(journal, {pk for pk, one in keys.items() if one == key}) <= most, key
        assert observer.most[key] <= most, key
    assert observer.most["crew"] == SLOTS and observer.samples > 100, "it has looked"
    assert len({line.pid for line in journal.starts()}) > PROCESSES
    check_turns(journal, keys)
    print(f"{observer.samples} samples, attempts {outcomes()}, after {Job.objects.count()} jobs")  # noqa: T201
    for process in crew:
        eventually(lambda process=process: is_working(process), within=30)
        process.terminate()
    assert [wait_for_exit(process) for process in crew] == [0] * PROCESSES


def check_turns(journal, keys) -> None:
    """In each line, the last start of each job comes after the end of the one before."""
    last = {line.job: line.time for line in journal.starts()}
    ends = {line.job: line.time for line in journal.lines("end")}
    for number in range(LINES):
        line = sorted(pk for pk, key in keys.items() if key == f"line-{number}")
        assert all(ends[one] <= last[two] for one, two in pairwise(line)), line


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
