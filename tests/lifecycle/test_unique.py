"""Unique keys: one job has each, and whoever enqueues gets its id."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue import chain, enqueue_many
from django_jobqueue.compat import InvalidTask, TaskResultStatus, task_enqueued
from django_jobqueue.dialects import get_dialect
from django_jobqueue.lifecycle import Retried, cancel, deletion, follow_up, prune, retry, retry_all, unique
from django_jobqueue.models import Job, UniqueKey

from ..tasks import add, echo, fail_thrice, noop
from .steps import USING, end, enqueue, failed, fresh, retrying, snoozed, started, succeeded, take, take_one, worker

pytestmark = pytest.mark.django_db

once = add.using(unique=True)
#: One job for each ``a``.
by_a = add.using(unique="a-{a}")


def ids(results) -> list[int]:
    return [int(result.id) for result in results]


def jobs() -> list[Job]:
    return list(Job.objects.order_by("pk"))


def unfinished() -> int:
    return Job.objects.unfinished().count()


def run_next(outcome=None) -> Job:
    job = take_one(worker())
    end(job, outcome or succeeded())
    return job


# -- what is the same -----------------------------------------------------------------------------


def test_g11_a_second_enqueue_returns_the_job_that_is_there():
    first, second = once.enqueue(1, 2), once.enqueue(1, 2)
    assert first.id == second.id and Job.objects.count() == 1
    assert second.status == TaskResultStatus.READY and second.args == [1, 2]


def test_other_arguments_are_another_key():
    assert len({once.enqueue(1, 2).id, once.enqueue(2, 1).id, once.enqueue("1", 2).id}) == 3


def test_arguments_are_the_same_however_they_are_spelled():
    assert len({once.enqueue(1, 2).id, once.enqueue(1, b=2).id, once.enqueue(b=2, a=1).id}) == 1
    greedy = echo.using(unique=True)
    assert greedy.enqueue(x=1, y=2).id == greedy.enqueue(y=2, x=1).id != greedy.enqueue(1, 2).id


def test_a_template_names_the_arguments_that_count():
    assert by_a.enqueue(1, 2).id == by_a.enqueue(1, 3).id == by_a.enqueue(b=4, a=1).id
    assert by_a.enqueue(2, 2).id != by_a.enqueue(1, 2).id
    assert jobs()[0].unique_key == "a-1" and jobs()[0].args == [1, 2]


def test_upper_and_lower_case_are_different_keys():
    same = echo.using(unique="{0}")
    words = ["Ada", "ada", "ada ", "adá"]
    assert len({same.enqueue(word).id for word in words}) == len(words)


def test_a_key_is_its_tasks_own():
    assert add.using(unique="one").enqueue(1, 2).id != echo.using(unique="one").enqueue().id


def test_keys_of_any_length_are_kept_apart():
    long = echo.using(unique="{0}")
    assert long.enqueue("x" * 5000).id == long.enqueue("x" * 5000).id != long.enqueue("x" * 5001).id
    assert len(jobs()[0].unique_key) == 200


def test_without_a_key_every_call_is_a_job():
    assert noop.enqueue().id != noop.enqueue().id
    assert once.using(unique=False).enqueue(1, 2).id != once.using(unique=False).enqueue(1, 2).id
    assert not UniqueKey.objects.exists() and jobs()[0].unique_key is None


# -- how long -------------------------------------------------------------------------------------


def test_a_key_is_free_when_its_job_has_finished():
    first = once.enqueue(1, 2)
    job = take_one(worker())
    assert once.enqueue(1, 2).id == first.id, "it runs"
    end(job, retrying())
    assert once.enqueue(1, 2).id == first.id, "it will run again"
    end(take_one(worker()), failed())
    assert once.enqueue(1, 2).id != first.id and Job.objects.count() == 2


def test_a_cancelled_job_has_no_key():
    first = once.enqueue(1, 2)
    cancel([int(first.id)])
    assert once.enqueue(1, 2).id != first.id


def test_a_job_that_is_gone_has_no_key():
    first = once.enqueue(1, 2)
    Job.objects.all().delete()
    assert once.enqueue(1, 2).id != first.id


def test_until_started_a_key_is_held_while_its_job_waits():
    waiting = once.using(unique_until="started")
    first = waiting.enqueue(1, 2)
    assert waiting.enqueue(1, 2).id == first.id
    job = take_one(worker())
    second = waiting.enqueue(1, 2)
    assert second.id != first.id and waiting.enqueue(1, 2).id == second.id
    end(job, snoozed())
    assert unfinished() == 2 and waiting.enqueue(1, 2).id == second.id, "two wait, and nothing is wedged"
    assert [run_next().pk, run_next().pk] and unfinished() == 0
    assert waiting.enqueue(1, 2).id not in (first.id, second.id)


def test_until_started_what_waits_again_has_its_key_unless_somebody_took_it():
    waiting = once.using(unique_until="started")
    job = started(waiting, 1, 2)
    end(job, snoozed())
    assert int(waiting.enqueue(1, 2).id) == job.pk, "it will start after this call"


def test_for_a_period_a_key_is_held_from_the_enqueue_on():
    hourly = once.using(unique_until=timedelta(hours=1))
    first = hourly.enqueue(1, 2)
    run_next()
    again = hourly.enqueue(1, 2)
    assert again.id == first.id and again.status == TaskResultStatus.SUCCESSFUL
    UniqueKey.objects.update(until=Now() - timedelta(seconds=1))
    assert hourly.enqueue(1, 2).id != first.id


def test_what_the_holder_was_enqueued_with_says_how_long():
    first = once.using(unique_until=3600).enqueue(1, 2)
    run_next()
    assert once.enqueue(1, 2).id == first.id
    other = once.enqueue(3, 4)
    run_next()
    assert once.using(unique_until=3600).enqueue(3, 4).id != other.id


# -- on conflict ----------------------------------------------------------------------------------

latest = add.using(unique="a-{a}", on_conflict="replace")
settled = latest.using(on_conflict="debounce", run_after=timedelta(seconds=30))
behind = latest.using(on_conflict="follow")


def test_replace_gives_the_waiting_job_the_new_arguments_and_leaves_it_its_place():
    first = latest.enqueue(1, 2)
    place = jobs()[0].place
    second = latest.using(priority=7, queue_name="mail", max_attempts=4, timeout=9.0).enqueue(1, 3)
    (job,) = jobs()
    assert first.id == second.id and job.args == [1, 3] == second.args
    assert (job.priority, job.queue_name, job.max_attempts, job.option("timeout")) == (7, "mail", 4, 9.0)
    assert job.place == place and not job.is_scheduled
    assert job.unique_key == "a-1"


def test_replace_leaves_a_scheduled_job_its_time():
    latest.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    at = jobs()[0].run_after
    latest.enqueue(1, 3)
    (job,) = jobs()
    assert job.is_scheduled and job.run_after == at and job.args == [1, 3]


def test_replaced_arguments_have_a_full_set_of_attempts():
    job = enqueue(fail_thrice.using(unique="mail", on_conflict="replace"), "a")
    end(take_one(worker()), retrying(3600))
    fail_thrice.using(unique="mail", on_conflict="replace").enqueue("b")
    row = fresh(job)
    assert (row.args, row.tries, row.attempts) == (["b"], 0, 1) and row.is_scheduled


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("task", [latest, settled, behind], ids=lambda task: task.on_conflict)
def test_when_the_job_runs_one_more_follows_and_only_one(task):
    first = started(latest, 1, 2)
    second = task.enqueue(1, 3)
    assert int(second.id) != first.pk and fresh(first).args == [1, 2]
    third = task.enqueue(1, 4)
    assert third.id == second.id and unfinished() == 2
    assert Job.objects.get(pk=second.id).args == ([1, 3] if task is behind else [1, 4])
    assert Job.objects.get(pk=second.id).status == "WAITING"
    end(first, succeeded())
    follow_up("default")
    assert Job.objects.get(pk=second.id).status == "READY"
    assert task.enqueue(1, 5).id == second.id


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ended", [succeeded, failed])
def test_the_job_that_follows_does_not_start_before_the_other_has_ended(ended):
    first = started(behind, 1, 2)
    behind.enqueue(1, 3)
    assert not take(worker())
    end(first, ended())
    follow_up("default")
    assert take_one(worker()).args == [1, 3]


def test_a_task_with_a_key_cannot_wait_for_others():
    with pytest.raises(InvalidTask, match=r"its jobs cannot wait for others.*unique=False"):
        chain(noop.s(), behind.si(1, 2)).enqueue()
    with pytest.raises(InvalidTask, match="cannot wait"):
        behind.using(after=noop.enqueue()).enqueue(1, 2)
    enqueued = chain(noop.s(), behind.using(unique=False).si(1, 2)).enqueue()
    assert len(enqueued) == 2


@pytest.mark.django_db(transaction=True)
def test_a_chain_goes_on_behind_the_job_that_has_the_key_of_its_first_step():
    there = latest.enqueue(1, 2)
    enqueued = chain(latest.s(1, 3), noop.si()).enqueue()
    assert enqueued[0].id == there.id
    assert Job.objects.get(pk=enqueued[1].id).status == "WAITING"
    end(take_one(worker()), succeeded())
    follow_up("default")
    assert Job.objects.get(pk=enqueued[1].id).status == "READY"


def test_follow_returns_a_job_that_waits():
    assert behind.enqueue(1, 2).id == behind.enqueue(1, 3).id
    assert jobs()[0].args == [1, 2]


def test_debounce_moves_the_job_to_the_time_of_the_last_call():
    first = settled.enqueue(1, 2)
    Job.objects.update(run_after=Now() + timedelta(seconds=1))
    second = settled.enqueue(1, 3)
    (job,) = jobs()
    assert first.id == second.id and job.args == [1, 3] and job.is_scheduled
    assert timedelta(seconds=28) < job.run_after - timezone.now() < timedelta(seconds=32)
    assert abs(second.task.run_after - job.run_after) < timedelta(milliseconds=1)


def test_debounce_takes_a_job_out_of_the_line_and_puts_it_back():
    latest.enqueue(1, 2)
    settled.enqueue(1, 3)
    assert jobs()[0].is_scheduled and jobs()[0].place is None
    settled_now = latest.using(on_conflict="debounce")
    settled_now.enqueue(1, 4)
    assert not jobs()[0].is_scheduled
    assert take_one(worker()).args == [1, 4]


def test_debounce_puts_a_job_off_no_longer_than_it_may():
    bounded = settled.using(max_debounce=timedelta(seconds=45))
    job = enqueue(bounded, 1, 2)
    Job.objects.update(enqueued_at=job.enqueued_at - timedelta(seconds=40))
    bounded.enqueue(1, 3)
    (job,) = jobs()
    assert abs(job.run_after - job.enqueued_at - timedelta(seconds=45)) < timedelta(milliseconds=1)
    assert job.args == [1, 3]


@pytest.mark.parametrize("task", [latest, settled], ids=lambda task: task.on_conflict)
def test_a_waiting_job_is_changed_and_keeps_waiting(task):
    first = enqueue(latest, 1, 2)
    Job.objects.update(status=Job.Status.WAITING, place=None, waiting_for=1)
    task.enqueue(1, 3)
    row = fresh(first)
    assert (row.status, row.place, row.args) == ("WAITING", None, [1, 3])


def test_a_job_of_a_past_run_is_not_changed_within_its_period():
    hourly = latest.using(unique_until=3600)
    job = started(hourly, 1, 2)
    assert int(hourly.enqueue(1, 3).id) == job.pk, "it runs"
    end(job, succeeded())
    assert hourly.enqueue(1, 4).args == [1, 2]
    assert [job.args for job in jobs()] == [[1, 2]]


@pytest.mark.parametrize("task", [latest, settled], ids=lambda task: task.on_conflict)
@pytest.mark.parametrize("what", ["claimed", "cancelled"])
def test_g11_a_job_that_is_claimed_or_cancelled_between_look_and_change_is_not_changed(monkeypatch, task, what):
    first = enqueue(latest, 1, 2)
    look = unique._locked

    def look_and_lose(keys, using):
        holds = look(keys, using)
        if unfinished() == 1 and not Job.objects.running().exists():
            take_one(worker()) if what == "claimed" else cancel([first.pk])
        return holds

    monkeypatch.setattr(unique, "_locked", look_and_lose)
    second = enqueue(task, 1, 3)
    assert second.pk != first.pk and second.args == [1, 3] and fresh(first).args == [1, 2]
    assert second.status == ("WAITING" if what == "claimed" else "READY")


# -- many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 120])
def test_duplicates_within_a_bulk_are_one_job(number):
    there = by_a.enqueue(0, 0)
    results = enqueue_many([by_a.s(place % 3, place) for place in range(number)] + [noop.s(), noop.s()])
    found = ids(results)
    assert found[:3] == found[3:6] or number == 3
    assert found[0] == int(there.id) and Job.objects.count() == 5
    assert [result.args for result in results[:number]] == [[place % 3, place % 3 or 0] for place in range(number)]
    assert len(set(found[-2:])) == 2


def test_in_a_bulk_the_last_call_counts_where_the_job_is_to_be_changed():
    there = latest.enqueue(0, 0)
    results = enqueue_many([latest.s(place % 2, place) for place in range(10)])
    assert {job.pk: job.args for job in jobs()} == {int(there.id): [0, 8], int(results[1].id): [1, 9]}
    assert [result.args for result in results] == [[0, 8], [1, 9]] * 5


def test_in_a_bulk_a_job_is_debounced_to_the_time_of_the_last_call():
    results = enqueue_many(
        [latest.s(1, 1), settled.s(1, 2), latest.using(on_conflict="debounce").s(2, 1), settled.s(2, 2)]
    )
    assert len(set(ids(results))) == 2
    assert [(job.is_scheduled, job.args) for job in jobs()] == [(True, [1, 2]), (True, [2, 2])]
    assert enqueue_many([settled.s(3, 1), latest.using(on_conflict="debounce").s(3, 2)])[0].id
    assert not jobs()[-1].is_scheduled


def test_a_bulk_with_one_call_that_cannot_have_its_key_leaves_nothing():
    with pytest.raises(ValueError, match="unique"):
        enqueue_many([by_a.s(1, 2), echo.using(unique="{0[name]}").s(3)])
    assert not Job.objects.exists() and not UniqueKey.objects.exists()


def test_after_a_collision_the_whole_is_tried_again(queue_db, monkeypatch):
    def collide_once(holds, using):
        if not collided:
            collided.append(True)
            note(holds, using)
            raise OperationalError("collision")
        note(holds, using)

    collided: list[bool] = []
    note = unique._note
    dialect = get_dialect(USING)
    there = latest.enqueue(0, 0)
    monkeypatch.setattr(unique, "_note", collide_once)
    monkeypatch.setattr(dialect, "is_collision", lambda error: "collision" in str(error))
    calls = [latest.s(0, 1), latest.s(1, 1), noop.s(), latest.s(1, 2), settled.s(2, 1), settled.s(2, 2)]
    results = enqueue_many(calls * 12)
    assert collided and Job.objects.count() == 15
    assert ids(results[:2]) == [int(there.id), int(results[3].id)]
    assert {job.pk: job.args for job in jobs() if job.task_path == add.module_path} == {
        int(results[0].id): [0, 1],
        int(results[1].id): [1, 2],
        int(results[4].id): [2, 2],
    }


# -- what callers and receivers see ---------------------------------------------------------------


def test_the_result_of_a_job_that_was_there_comes_from_the_database():
    first = started(once, 1, 2)
    end(first, retrying())
    take_one(worker())
    result = once.using(priority=9).enqueue(1, 2)
    assert result.status == TaskResultStatus.RUNNING and len(result.errors) == 1 and len(result.worker_ids) == 2
    assert result.task.priority == 0 and result.enqueued_at == first.enqueued_at


def test_results_of_a_bulk_can_be_looked_at_where_no_query_may_be_made(django_assert_num_queries):
    end(started(once, 1, 2), retrying())
    results = enqueue_many([once.s(1, 2), once.s(3, 4)])
    with django_assert_num_queries(0):
        assert [len(result.errors) for result in results] == [1, 0]


def test_only_new_jobs_are_announced():
    heard = []

    def listen(sender, task_result, **kwargs):
        heard.append(task_result.id)

    task_enqueued.connect(listen)
    try:
        first = once.enqueue(1, 2)
        once.enqueue(1, 2)
        more = enqueue_many([once.s(1, 2), once.s(3, 4), once.s(3, 4)])
    finally:
        task_enqueued.disconnect(listen)
    assert heard == [first.id, more[1].id]


def test_workers_are_told_of_new_and_moved_jobs_only(monkeypatch):
    told = []
    monkeypatch.setattr("django_jobqueue.lifecycle.notify.ready", lambda lanes, using: told.append(sorted(lanes)))
    once.enqueue(1, 2)
    once.enqueue(1, 2)
    latest.enqueue(1, 2)
    latest.using(queue_name="mail").enqueue(1, 3)
    assert told == [[("default", 0)], [("default", 0)], [("mail", 0)]]


def test_what_a_key_costs(django_assert_num_queries):
    more = connection.vendor == "mysql"
    with transaction.atomic():
        with django_assert_num_queries(3 + more):
            once.enqueue(1, 2)
        with django_assert_num_queries(2 + more):
            once.enqueue(1, 2)
        Job.objects.update(status="SUCCESSFUL")
        with django_assert_num_queries(4 + more):
            once.enqueue(1, 2)
    with django_assert_num_queries(1):
        add.enqueue(1, 2)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL keeps what an old snapshot might see")
def test_g14_who_finds_a_job_leaves_no_new_version_of_the_keys_row():
    def version() -> str:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT ctid::text FROM {UniqueKey._meta.db_table}")
            ((found,),) = cursor.fetchall()
            return found

    once.enqueue(1, 2)
    before = version()
    assert len({once.enqueue(1, 2).id for _ in range(5)}) == 1
    assert version() == before


def test_a_layer_may_change_the_arguments_and_the_key_is_that_of_what_is_stored(settings):
    settings.JOBQUEUE_MIDDLEWARE = ["tests.lifecycle.test_unique.Swapped"]
    result = by_a.enqueue(1, 2)
    assert jobs()[0].unique_key == "a-2" and by_a.enqueue(3, 2).id == result.id


class Swapped:
    def process_enqueue(self, jobs, call_next):
        for job in jobs:
            job.args = job.args[::-1]
        return call_next(jobs)

    def __call__(self, context, call_next):
        return call_next()


# -- declared -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unique": 7}, "unique cannot be 7"),
        ({"unique": ""}, "unique cannot be ''"),
        ({"unique": "order-{"}, "unique cannot be 'order-{'"),
        ({"unique": "{nobody}"}, "'{nobody}' names nobody: add has no such parameter"),
        ({"unique": lambda a, b: a}, "callable in @task"),
        ({"unique": True, "unique_until": "done"}, "unique_until must be 'finished'.*not 'done'"),
        ({"unique": True, "unique_until": 0}, "unique_until must be"),
        ({"unique": True, "unique_until": float("nan")}, "unique_until must be"),
        ({"unique": True, "unique_until": timedelta(seconds=-1)}, "unique_until must be"),
        ({"unique": True, "on_conflict": "raise"}, "on_conflict must be one of 'return', 'replace'.*not 'raise'"),
        ({"unique": True, "on_conflict": "follow", "unique_until": "started"}, "'follow' is for"),
        ({"unique": True, "on_conflict": "follow", "unique_until": 60}, "'follow' is for"),
        ({"unique": True, "max_debounce": 60}, "max_debounce is for on_conflict='debounce', not 'return'"),
        ({"unique": True, "on_conflict": "debounce", "max_debounce": -60}, "max_debounce must be a positive"),
        ({"on_conflict": "replace"}, "give unique too"),
        ({"unique_until": "started"}, "give unique too"),
    ],
    ids=str,
)
def test_nonsense_is_refused_where_it_is_written(options, told):
    with pytest.raises(InvalidTask, match=f"^tests.tasks.add: .*{told}"):
        add.using(**options)


def test_a_task_may_say_what_becomes_of_keys_that_only_some_calls_have():
    some = add.using(unique=False, on_conflict="replace")
    some.enqueue(1, 2)
    some.using(unique="one").enqueue(1, 2)
    some.using(unique="one").enqueue(1, 3)
    assert [job.args for job in jobs()] == [[1, 2], [1, 3]]


# -- retry ----------------------------------------------------------------------------------------


def test_g11_a_job_whose_key_another_has_is_not_retried():
    first = started(once, 1, 2)
    end(first, failed())
    second = enqueue(once, 1, 2)
    assert retry([first.pk]) == 0 and retry_all([first.pk]) == Retried(held=1)
    assert fresh(first).status == "FAILED" and unfinished() == 1
    cancel([second.pk])
    assert retry_all([first.pk]) == Retried(retried=1)
    assert int(once.enqueue(1, 2).id) == first.pk, "it has its key again"


def test_g11_of_jobs_with_one_key_the_newest_is_retried():
    failures = []
    for _ in range(3):
        failures.append(started(once, 1, 2))
        end(failures[-1], failed())
    other = enqueue(noop)
    cancel([other.pk])
    assert retry_all([other.pk, *(job.pk for job in failures)]) == Retried(retried=2, held=2)
    assert set(Job.objects.unfinished().values_list("pk", flat=True)) == {failures[-1].pk, other.pk}


def test_a_job_that_ran_within_its_own_period_can_be_retried():
    job = started(once.using(unique_until=3600), 1, 2)
    end(job, failed())
    assert retry([job.pk]) == 1
    assert UniqueKey.objects.get().until > timezone.now() + timedelta(minutes=50)


def test_a_retried_job_has_its_key_for_as_long_as_it_was_enqueued_with():
    job = started(once.using(unique_until="started"), 1, 2)
    end(job, failed())
    run_next() if once.enqueue(1, 2) else None
    assert retry([job.pk]) == 1 and UniqueKey.objects.get().until_started
    assert int(once.enqueue(1, 2).id) == job.pk


# -- prune ----------------------------------------------------------------------------------------


def test_a_key_is_pruned_with_its_job():
    first, second = once.enqueue(1, 2), once.enqueue(3, 4)
    run_next()
    Job.objects.filter(pk=first.id).update(enqueued_at=Now() - timedelta(days=2), finished_at=Now() - timedelta(days=2))
    assert prune(3600) == 1
    assert UniqueKey.objects.get().job_id == int(second.id)


def make_old(*jobs: str) -> None:
    long_ago = Now() - timedelta(days=2)
    Job.objects.filter(pk__in=jobs).update(status="SUCCESSFUL", enqueued_at=long_ago, finished_at=long_ago)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer")
def test_a_job_whose_key_somebody_holds_is_pruned_the_next_time(queue_db):
    first, second = once.enqueue(1, 2), once.enqueue(3, 4)
    make_old(first.id, second.id)

    def prune_elsewhere() -> None:
        pruned.append(prune(3600))
        connections.close_all()

    pruned: list[int] = []
    with transaction.atomic():
        once.enqueue(1, 2)
        thread = threading.Thread(target=prune_elsewhere)
        thread.start()
        thread.join(30)
        assert pruned == [1], "it does not wait"
    prune(3600)
    assert UniqueKey.objects.count() == 1 == Job.objects.count()


def test_a_job_that_was_retried_in_the_meantime_keeps_its_key(monkeypatch):
    first, other = once.enqueue(1, 2), once.enqueue(3, 4)
    make_old(first.id, other.id)
    Job.objects.filter(pk=first.id).update(status="FAILED")
    look = deletion._locked_keys

    def retry_and_look(ids, using):
        retry([int(first.id)])
        return look(ids, using)

    monkeypatch.setattr(deletion, "_locked_keys", retry_and_look)
    assert prune(3600) == 1 and once.enqueue(1, 2).id == first.id
    assert UniqueKey.objects.count() == 1
