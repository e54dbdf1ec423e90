"""Times at the edge: refused where they are given, and harmless where they are there already."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.urls import reverse
from django.utils.timezone import now

from django_jobqueue import Retry, Snooze, enqueue_many
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import reschedule, run_now
from django_jobqueue.lifecycle.claim import next_due, peek
from django_jobqueue.models import Job
from django_jobqueue.moments import EARLIEST, TOO_LATE, check_moment
from django_jobqueue.outcomes import Outcome, State

from .tasks import noop
from .worker.workers import drain

EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
EDGES = [
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    *(edge.replace(tzinfo=zone) for edge in (datetime.max, datetime.min) for zone in (EAST, WEST)),
    datetime(9999, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=WEST),
    datetime(1899, 12, 31, 23, 59, 59, tzinfo=UTC),
]
LONG = [timedelta.max, timedelta(days=2_950_000), timedelta(days=100 * 366)]


@pytest.mark.once
@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_a_time_at_the_edge_is_refused_wherever_it_is_given(edge):
    with pytest.raises(InvalidTask, match=r"run_after must be from 1900-01-01 on and before 9999-01-01, not"):
        noop.using(run_after=edge)
    for give in (
        lambda: Retry(at=edge),
        lambda: Snooze(at=edge),
        lambda: reschedule([1], edge),
        lambda: Outcome(state=State.SNOOZED, status="READY").replace(run_after=edge),
    ):
        with pytest.raises(ValueError, match="1900-01-01 on and before 9999-01-01"):
            give()


@pytest.mark.once
@pytest.mark.parametrize("delay", [*LONG, float("inf"), float("nan"), 1e300], ids=str)
def test_a_delay_without_an_end_is_refused(delay):
    for give in (lambda: Retry(delay=delay), lambda: Snooze(delay)):
        with pytest.raises(ValueError, match=r"The delay of (Retry|Snooze) must be at most 3153600000 seconds"):
            give()


@pytest.mark.once
@pytest.mark.parametrize("delay", LONG[:2], ids=str)
def test_a_delay_beyond_all_calendars_is_refused_at_enqueue(delay):
    with pytest.raises(InvalidTask, match="run_after"):
        noop.using(run_after=delay)


@pytest.mark.once
def test_naive_times_have_the_same_bounds():
    check_moment("x", EARLIEST.replace(tzinfo=None))
    for naive in (datetime.max, datetime.min, TOO_LATE.replace(tzinfo=None)):
        with pytest.raises(ValueError, match="x must be"):
            check_moment("x", naive)


@pytest.mark.django_db(transaction=True)
def test_what_is_inside_works_on_every_database():
    for at in (EARLIEST, TOO_LATE - timedelta(microseconds=1), datetime(2024, 3, 31, 1, 30, tzinfo=UTC)):
        result = noop.using(run_after=at).enqueue()
        assert Job.objects.get(pk=result.id).run_after == at
    enqueue_many([noop.using(run_after=TOO_LATE - timedelta(seconds=1)).s()] * 60)
    drain()
    assert Job.objects.filter(status="SUCCESSFUL").count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("to", ["9999-12-31T23:59", "0001-01-01T00:00", "2950000d", "1899-01-01T00:00Z"])
def test_the_command_says_so(to):
    job = noop.using(run_after=timedelta(hours=1)).enqueue()
    before = Job.objects.get().run_after
    with pytest.raises(CommandError, match=r"--to: "):
        call_command("jobqueue", "reschedule", job.id, "--to", to)
    assert Job.objects.get().run_after == before


#: What may be there already, in SQL.
THERE = {
    "postgresql": ["10000-01-01 05:00+00", "200000-01-01", "infinity", "-infinity", "0044-03-15 BC"],
    "sqlite": ["9999-12-31 23:59:59.999999", "0001-01-01 00:00:00"],
    "mysql": ["9999-12-31 23:59:59.999999", "1000-01-01"],
}[connection.vendor]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"])
@pytest.mark.parametrize("there", THERE)
def test_g9_a_row_at_the_edge_stops_neither_a_worker_nor_the_admin(there, zone, settings, admin_client):
    settings.TIME_ZONE = zone
    odd = noop.using(run_after=timedelta(hours=1)).enqueue()
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Job._meta.db_table} SET run_after = %s WHERE id = %s", [there, odd.id])
    other = noop.enqueue()
    assert next_due("default") is not None and peek("default").in_line
    for url in (
        reverse("admin:django_jobqueue_job_changelist"),
        reverse("admin:django_jobqueue_job_change", args=[odd.id]),
        reverse("admin:django_jobqueue_queue_changelist"),
    ):
        assert admin_client.get(url).status_code == 200, url
    call_command("jobqueue", "status", verbosity=0)
    drain()
    assert Job.objects.get(pk=other.id).status == "SUCCESSFUL"
    is_over = next(iter(Job.objects.filter(pk=odd.id, run_after__lt=now()).values_list("status", flat=True)), "READY")
    odd_job = Job.objects.get(pk=odd.id)
    assert odd_job.status == is_over
    if is_over == "READY":
        assert run_now([odd_job.pk]) == 1


@pytest.mark.django_db(transaction=True)
def test_rows_beyond_time_are_walked_once():
    enqueue_many([noop.using(run_after=timedelta(hours=1)).s()] * 1010)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Job._meta.db_table} SET run_after = %s", [THERE[0]])
    assert run_now(Job.objects.all()) == 1010
