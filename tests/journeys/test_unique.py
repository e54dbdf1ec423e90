"""Unique keys, over several processes that enqueue at once while workers run what they have enqueued."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from django.db import connection, connections, transaction

from django_jobqueue.models import Job, UniqueKey

from ..tasks import add
from .conftest import statuses, unfinished, wait_for_exit
from .unique_tasks import KEYS, alone

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PROCESSES, CALLS = 4, 1000
ENQUEUE = "from tests.journeys.unique_tasks import enqueue_all; enqueue_all({}, {}, {!r})"
once = add.using(unique=True)


class Observer(threading.Thread):
    """Counts, on a connection of its own, the unfinished jobs of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.most: Counter[int] = Counter()
        self.done = threading.Event()
        self.looks = 0

    def run(self) -> None:
        while not self.done.is_set():
            args = Job.objects.unfinished().filter(task_path=alone.module_path).values_list("args", flat=True)
            self.most |= Counter(key for key, _ in list(args))
            self.looks += 1
            time.sleep(0.005)
        connection.close()


def test_g11_a_unique_key_has_one_unfinished_job_over_processes(
    queue_db, start_worker, spawn, journal, eventually, tmp_path
):
    observer = Observer()
    observer.start()
    try:
        for _ in range(2):
            start_worker("--threads", 2, options={"LEASE": 20})
        files = [tmp_path / f"ids-{number}" for number in range(PROCESSES)]
        crew = [
            spawn(
                "shell",
                "-v",
                0,
                "-c",
                ENQUEUE.format(CALLS, number, str(path)),
                DJANGO_SETTINGS_MODULE="tests.journeys.settings",
            )
            for number, path in enumerate(files)
        ]
        assert [wait_for_exit(process, 200) for process in crew] == [0] * PROCESSES
        eventually(lambda: not unfinished(), within=60, every=0.1)
    finally:
        observer.done.set()
        observer.join(20)
    got = [int(line) for path in files for line in path.read_text().split()]
    there = set(Job.objects.values_list("pk", flat=True))
    assert set(got) == there, "every caller got the id of a job, and every job is somebody's"
    assert len(got) > PROCESSES * CALLS * 0.8 and len(there) < len(got)
    assert observer.most == Counter(range(KEYS)) and observer.looks > 20
    assert not journal.lines("not-alone") and len(journal.starts()) == len(there)
    assert statuses() == {"SUCCESSFUL": len(there)}
    assert len(set(UniqueKey.objects.values_list("job_id", flat=True)) & there) == KEYS
    print(f"{len(got)} calls, {len(there)} jobs, {observer.looks} looks")  # noqa: T201


# -- threads with connections of their own --------------------------------------------------------


def all_at_once(number: int, call) -> list:
    """What the call returns or raises in each of so many threads."""
    answers, gate = [], threading.Barrier(number)

    def run() -> None:
        try:
            connection.ensure_connection()
            gate.wait()
            answers.append(call())
        except Exception as error:
            answers.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_g11_a_hundred_enqueues_at_once_are_one_job(queue_db):
    answers = all_at_once(25, lambda: [once.enqueue(1, 2).id for _ in range(4)])
    assert len(answers) == 25 and not [answer for answer in answers if not isinstance(answer, list)], answers
    assert Job.objects.count() == 1
    assert {pk for answer in answers for pk in answer} == {str(Job.objects.get().pk)}


class Waiting(threading.Thread):
    """Enqueues under a key that another transaction holds."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: str | None = None

    def run(self) -> None:
        try:
            self.answer = once.enqueue(1, 2).id
        finally:
            connections.close_all()


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_g11_who_enqueues_under_a_key_waits_for_who_did_so_first(queue_db, ends):
    other = Waiting()
    with transaction.atomic():
        first = once.enqueue(1, 2).id
        other.start()
        other.join(0.3)
        assert other.is_alive(), "nobody knows yet whether there will be that job"
        transaction.set_rollback(ends == "rollback")
    other.join(30)
    job = Job.objects.get()
    assert other.answer == str(job.pk)
    assert (other.answer == first) is (ends == "commit") or connection.vendor == "sqlite"
    assert UniqueKey.objects.get().job_id == job.pk


def test_g11_a_rollback_with_many_waiting_makes_one_job(queue_db):
    answers: list = []
    with transaction.atomic():
        once.enqueue(1, 2)
        crowd = threading.Thread(target=lambda: answers.extend(all_at_once(8, lambda: once.enqueue(1, 2).id)))
        crowd.start()
        crowd.join(0.3)
        transaction.set_rollback(True)
    crowd.join(60)
    assert set(answers) == {str(Job.objects.get().pk)} and len(answers) == 8


def test_g11_a_caller_whose_transaction_saw_the_past_finds_the_job_of_today(queue_db):
    """Its snapshot, where it has one, is older than the job."""

    def other() -> None:
        made.append(once.enqueue(1, 2).id)
        connections.close_all()

    made: list[str] = []
    first = once.enqueue(1, 2).id
    Job.objects.filter(pk=first).update(status="SUCCESSFUL")
    with transaction.atomic():
        if connection.vendor != "sqlite":  # which has the write lock by now
            assert Job.objects.get().status == "SUCCESSFUL"
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(30)
        else:
            other_id = once.enqueue(1, 2).id
            made.append(other_id)
        assert once.enqueue(1, 2).id == made[0] != first
    assert unfinished() == 1
