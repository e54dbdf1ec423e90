"""Enqueue: jobs are rows in the caller's transaction."""

import threading
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from itertools import cycle

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle import promote
from django_jobqueue.models import Job

from ..tasks import add, echo, noop
from .steps import USING, enqueue, take, take_one, worker

pytestmark = pytest.mark.django_db


class Undo(Exception):
    pass


def last_ids(number: int) -> list[int]:
    return list(Job.objects.order_by("-place").values_list("pk", flat=True)[:number])[::-1]


def count_elsewhere() -> int:
    """How many jobs another connection sees."""
    seen = []

    def look():
        seen.append(Job.objects.count())
        connections.close_all()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return seen[0]


def test_g1_enqueue_in_a_transaction_that_rolls_back_leaves_nothing():
    with pytest.raises(Undo), transaction.atomic():
        noop.enqueue()
        enqueue_many([noop.s() for _ in range(60)])
        raise Undo
    assert not Job.objects.exists()


def test_g1_enqueue_in_a_transaction_that_commits_is_waiting_in_line():
    with transaction.atomic():
        result = noop.enqueue()
    assert Job.objects.in_line().get().pk == int(result.id)


def test_g1_nobody_sees_the_job_before_the_callers_transaction_commits(queue_db):
    with transaction.atomic():
        noop.enqueue()
        enqueue_many([noop.s(), noop.s()])
        assert count_elsewhere() == 0
    assert count_elsewhere() == 3


def test_one_enqueue_is_one_statement(django_assert_num_queries):
    with django_assert_num_queries(1):
        add.enqueue(1, 2)


def test_the_row_says_what_was_enqueued():
    before = timezone.now()
    job = enqueue(echo.using(queue_name="mail", priority=7, max_attempts=4), 1, [None, "x"], key={"a": 1.5})
    assert job.task_path == "tests.tasks.echo"
    assert (job.args, job.kwargs) == ([1, [None, "x"]], {"key": {"a": 1.5}})
    assert (job.queue_name, job.priority, job.max_attempts, job.backend) == ("mail", 7, 4, "default")
    assert (job.status, job.attempts, job.tries, job.losses) == (Job.Status.READY, 0, 0, 0)
    assert job.fence is None and job.worker_id is None and job.started_at is None and job.finished_at is None
    assert before <= job.enqueued_at <= timezone.now()
    assert job.call == 'echo(1, [null, "x"], key={"a": 1.5})'


def test_a_later_time_means_scheduled_and_not_in_line():
    at = timezone.now() + timedelta(hours=1)
    job = enqueue(noop.using(run_after=at))
    assert job.is_scheduled and job.place is None
    assert abs(job.run_after - at) < timedelta(milliseconds=1)
    assert list(Job.objects.scheduled()) == [job] and not Job.objects.in_line().exists()


def test_a_timedelta_counts_from_the_enqueue():
    later = noop.using(run_after=timedelta(minutes=5))
    job = enqueue(later)
    assert job.is_scheduled
    assert abs(job.run_after - job.enqueued_at - timedelta(minutes=5)) < timedelta(milliseconds=1)


def test_g15_whether_a_time_has_come_is_for_the_databases_clock_to_say():
    job = enqueue(noop.using(run_after=timedelta(0)))
    assert job.is_scheduled and list(Job.objects.due()) == [job]
    assert promote(USING) == 1
    assert take_one(worker()).pk == job.pk


def test_jobs_stand_in_line_in_the_order_of_their_enqueueing():
    first, second = enqueue(), enqueue()
    many = [int(result.id) for result in enqueue_many([noop.s() for _ in range(5)])]
    third = enqueue()
    assert [job.pk for job in take(worker(), 10)] == [first.pk, second.pk, *many, third.pk]


@pytest.mark.parametrize("number", [1, 3, 120])
def test_many_at_once_keep_the_order_of_the_calls(number):
    results = enqueue_many(add.s(place, 1) for place in range(number))
    assert [Job.objects.get(pk=result.id).args[0] for result in results] == list(range(number))
    assert Job.objects.count() == number


def test_many_at_once_may_be_scheduled_and_ready_mixed():
    later = noop.using(run_after=timedelta(hours=1))
    results = enqueue_many([(later if place % 3 == 0 else noop).s() for place in range(90)])
    scheduled = set(Job.objects.scheduled().values_list("pk", flat=True))
    assert scheduled == {int(result.id) for result in results[::3]}
    assert Job.objects.in_line().count() == 60


AWKWARD = ["tab\tnew\nline\r\\N \\. \\", "ünï¢øðé 🐘", "'quotes\"", "%s {} ;--", "", "\\u0000", "\x7f"]


def test_awkward_text_survives_one_by_one_and_in_bulk():
    alone = [enqueue(echo, text).args[0] for text in AWKWARD]
    results = enqueue_many(echo.s(AWKWARD[place % len(AWKWARD)], key=str(place)) for place in range(70))
    rows = [Job.objects.get(pk=result.id) for result in results]
    assert alone == AWKWARD
    assert [row.args[0] for row in rows] == (AWKWARD * 10)[:70]
    assert [row.kwargs["key"] for row in rows] == [str(place) for place in range(70)]


@pytest.mark.parametrize("later", [None, timedelta(hours=1)], ids=["at once", "later"])
def test_a_queue_may_have_any_name(later):
    names = [name for name in AWKWARD if name]
    for name in names * 2:  # some of a statement is made once for a task, and used again
        enqueue(noop.using(queue_name=name, run_after=later))
    assert list(Job.objects.order_by("pk").values_list("queue_name", flat=True)) == names * 2


def test_one_call_that_cannot_be_enqueued_keeps_all_of_them_out():
    with pytest.raises(TypeError, match="echo"):
        enqueue_many([noop.s(), echo.s(object()), noop.s()])
    assert not Job.objects.exists()


def take_an_id_ahead(by: int) -> Job:
    """A job with an id that will come to the others later."""
    return Job.objects.create(pk=enqueue(noop).pk + by, task_path="tests.tasks.noop", enqueued_at=timezone.now())


def test_a_bulk_that_the_database_refuses_in_the_middle_leaves_nothing(queue_db):
    if connection.vendor != "postgresql":
        pytest.skip("the others never give an id that is taken")
    take_an_id_ahead(80)
    with pytest.raises(IntegrityError):
        enqueue_many([noop.s() for _ in range(100)])
    assert Job.objects.count() == 2
    assert [result.id for result in enqueue_many([noop.s()] * 60)] == [str(pk) for pk in last_ids(60)]


def test_a_bulk_that_the_database_refuses_leaves_the_callers_transaction_usable():
    if connection.vendor != "postgresql":
        pytest.skip("the others never give an id that is taken")
    take_an_id_ahead(80)
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            enqueue_many([noop.s() for _ in range(100)])
        noop.enqueue()
    assert Job.objects.count() == 3


def test_results_of_a_bulk_have_the_ids_of_their_rows_when_ids_are_not_contiguous():
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL reserves them one by one")
    with connection.cursor() as cursor:
        cursor.execute("ALTER SEQUENCE django_jobqueue_job_id_seq INCREMENT BY 7")
    results = enqueue_many([add.s(number, 1) for number in range(60)])
    assert {result.id: result.args for result in results} == {str(job.pk): job.args for job in Job.objects.all()}
    assert [result.args[0] for result in results] == list(range(60))


def test_no_calls_are_no_jobs():
    assert enqueue_many([]) == []


def test_only_calls_can_be_enqueued_in_bulk():
    with pytest.raises(TypeError, match=r"task\.s\(1\)"):
        enqueue_many([noop])


def test_a_refused_enqueue_leaves_the_callers_transaction_usable():
    with transaction.atomic():
        with pytest.raises(TypeError):
            echo.enqueue(object())
        noop.enqueue()
    assert Job.objects.count() == 1
    assert connection.is_usable()


class Name(str, Enum):  # noqa: UP042 (whose str() is its name)
    MAIL = "mail"


class Level(IntEnum):
    HIGH = 9


@pytest.mark.parametrize("number", [1, 3, 60])
def test_an_enums_member_is_stored_by_its_value(number):
    enqueue_many([noop.using(queue_name=Name.MAIL, priority=Level.HIGH).s() for _ in range(number)])
    assert set(Job.objects.values_list("queue_name", "priority")) == {("mail", 9)}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the other databases need USE_TZ")
def test_a_project_without_time_zones_can_schedule(settings):
    settings.USE_TZ = False
    soon = noop.using(run_after=timedelta(seconds=1)).enqueue()
    later = noop.using(run_after=datetime.now() + timedelta(hours=1)).enqueue()
    assert Job.objects.filter(pk__in=[soon.id, later.id]).scheduled().count() == 2


# -- some at once ---------------------------------------------------------------------------------

ODD = [
    'say "hi"',
    "back\\slash",
    "{a,b}",
    "tab\tnew\nline",
    "NULL",
    "",
    "é🎉",
    "50% %s",
    "it's",
    None,
    [1, {"a": "\\N"}],
]


@pytest.mark.parametrize("number", [2, 11, 49, 150])
def test_some_jobs_are_one_statement_and_arrive_as_they_are(queue_db, number):
    noop.enqueue()
    later = timedelta(hours=1)
    calls = [
        echo.using(queue_name='a "queue"', run_after=later if place % 3 else None, priority=place % 5).s(
            value, key=value
        )
        for place, value in zip(range(number), cycle(ODD))
    ]
    with CaptureQueriesContext(connection) as captured:
        results = enqueue_many(calls)
    inserts = [query for query in captured if "INSERT" in query["sql"]]
    if connection.vendor != "sqlite":  # where executemany is one for each place in the log, and in no round trip
        assert len(inserts) == (1 if number < 100 or connection.vendor == "mysql" else 0), "or COPY"
    jobs = list(Job.objects.order_by("pk"))[1:]
    assert [str(job.pk) for job in jobs] == [result.id for result in results]
    assert [job.args for job in jobs] == [list(call.args) for call in calls]
    assert [job.kwargs for job in jobs] == [call.kwargs for call in calls]
    assert [job.place is None for job in jobs] == [bool(place % 3) for place in range(number)]
    assert [job.priority for job in jobs] == [place % 5 for place in range(number)]
    assert {job.queue_name for job in jobs} == {'a "queue"'} and {job.options for job in jobs} == {None}
    places = [job.place for job in jobs if job.place is not None]
    assert places == sorted(places)
    [first] = [result for result in results if result.id == str(jobs[0].pk)]
    assert first.task.queue_name == 'a "queue"'


@pytest.mark.skipif(connection.vendor != "mysql", reason="only MySQL returns nothing")
@pytest.mark.parametrize("number", [1, 2, 1100])
def test_ids_without_returning(queue_db, monkeypatch, number):
    monkeypatch.setattr(type(connection.features), "can_return_rows_from_bulk_insert", False)
    results = enqueue_many([add.s(place, 0) for place in range(number)])
    assert {result.id: result.args[0] for result in results} == {
        str(pk): args[0] for pk, args in Job.objects.values_list("pk", "args")
    }
