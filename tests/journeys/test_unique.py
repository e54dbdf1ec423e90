"""Unique keys, over several processes that enqueue at once while workers run what they have enqueued."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from functools import partial

import pytest
from django.db import connection, connections, transaction

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle import retry
from django_jobqueue.models import Job, UniqueKey

from ..tasks import add
from .conftest import statuses, unfinished, wait_for_exit
from .unique_tasks import KEYS, alone

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PROCESSES, CALLS = 4, 600
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


@pytest.fixture
def repeatable_reads(queue_db):
    """Transactions see what was there when they began, as MariaDB and MySQL have it unless Django asks for less."""
    usual = connection.isolation_level
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.isolation_level = "repeatable read"
    yield
    connection.isolation_level = usual
    connection.close()


@pytest.mark.skipif(connection.vendor != "mysql", reason="PostgreSQL refuses this, SQLite has one writer")
@pytest.mark.parametrize("known", [True, False])
def test_g11_a_caller_whose_transaction_saw_the_past_finds_the_job_of_today(repeatable_reads, known):
    """Its snapshot is older than the job, or than the key too."""
    first = once.enqueue(1, 2).id if known else None
    Job.objects.update(status="SUCCESSFUL")
    with transaction.atomic():
        assert not unfinished()
        other = Waiting()
        other.start()
        other.join(30)
        assert not unfinished(), "it does not see that job"
        assert once.enqueue(1, 2).id == other.answer != first
    assert unfinished() == 1


def test_g11_transactions_that_take_many_keys_do_not_get_into_each_others_way(queue_db):
    def take_them() -> set[str]:
        got = set()
        for _ in range(20):
            with transaction.atomic():
                some = random.sample(range(12), 8)
                got |= {made.id for made in enqueue_many([once.s(number, 0) for number in some])}
        return got

    answers = all_at_once(6, take_them)
    assert not [answer for answer in answers if not isinstance(answer, set)], answers
    assert set().union(*answers) == {str(pk) for pk in Job.objects.values_list("pk", flat=True)}
    assert Job.objects.count() == 12


def test_g11_of_those_who_enqueue_and_those_who_retry_at_once_one_has_the_key(queue_db):
    for _ in range(10):
        Job.objects.update(status="SUCCESSFUL")
        failures = [once.enqueue(1, 2).id]
        Job.objects.filter(pk=failures[0]).update(status="FAILED")
        failures.append(once.enqueue(1, 2).id)
        Job.objects.filter(pk=failures[1]).update(status="FAILED")
        turns = itertools.cycle([lambda: once.enqueue(1, 2).id, partial(retry, failures)])
        answers = all_at_once(8, lambda turns=turns: next(turns)())
        assert not [answer for answer in answers if isinstance(answer, Exception)], answers
        job = Job.objects.unfinished().get()
        assert {answer for answer in answers if isinstance(answer, str)} == {str(job.pk)}
        assert sum(answer for answer in answers if isinstance(answer, int)) == (str(job.pk) in failures)
        assert UniqueKey.objects.get().job_id == job.pk
