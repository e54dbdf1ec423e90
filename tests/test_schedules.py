"""What may stand in ``@task(schedule=…)``, what is refused, and how a project tests its schedules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command

from django_jobqueue import cron, every, task, testing
from django_jobqueue.checks import check_installation
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import retime_schedule
from django_jobqueue.models import Job, Schedule
from django_jobqueue.registry import copy_of
from django_jobqueue.task import declared
from django_jobqueue.timing import Cron, Every

from . import tasks

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _forget_tasks():
    """What these tests declare must not be enqueued by the workers of others."""
    before = set(declared)
    yield
    for function in set(declared) - before:
        del declared[function]


def number(number=0):
    """A function at the top of a module, as the framework wants its tasks to be."""


def pair(a, b):
    pass


def with_client(context, number, client):
    pass


def with_other(client, other):
    pass


def test_one_or_several():
    one = task(schedule=every(HOUR))(number)
    two = task(schedule=[cron("0 3 * * *", tz="Europe/Berlin"), every(HOUR, args=[1])])(number)
    assert [entry.timing for entry in one.schedule] == [Every(HOUR)]
    assert [entry.timing for entry in two.schedule] == [Cron("0 3 * * *", "Europe/Berlin"), Every(HOUR)]
    assert task(number).schedule == () and hash(two) is not None


def test_the_zone_is_the_projects_unless_said_otherwise(settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    assert cron("0 3 * * *").timing.zone == "Asia/Tokyo"
    assert cron("0 3 * * *", tz=ZoneInfo("Europe/Berlin")).timing.zone == "Europe/Berlin"
    assert cron("0 3 * * *", tz=UTC).timing.zone == "UTC"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cron("61 * * * *"), r"schedule=cron\('61 \* \* \* \*'\): .*Bad minute\."),
        (lambda: cron(None), "a cron expression is text"),
        (lambda: cron("0 3 * * *", tz="Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
        (lambda: cron("0 0 30 2 *"), "Bad day-of-month"),
        (lambda: every(timedelta(milliseconds=999)), "the period must be from one second to ten years"),
        (lambda: every(60), "takes a timedelta, not 60"),
        (lambda: every(HOUR, overlap="wait"), "overlap must be one of allow, skip, queue, cancel, not 'wait'"),
        (lambda: every(HOUR, catch_up="first"), "catch_up must be 'none', 'last' or a number up to 1000"),
        (lambda: every(HOUR, catch_up=True), "catch_up must be"),
        (lambda: every(HOUR, catch_up=-1), "catch_up must be"),
        (lambda: every(HOUR, jitter=-1), "jitter must be from 0 seconds to a day, not -1"),
        (lambda: every(HOUR, jitter=float("nan")), "jitter must be"),
        (lambda: every(HOUR, args="abc"), "args must be a list of arguments, not 'abc'"),
        (lambda: every(HOUR, kwargs=[1]), "kwargs must be a dictionary"),
        (lambda: every(HOUR, name=3), "name must be a string"),
        (lambda: every(HOUR, queue_name="q" * 101), "queue_name must be a string of up to 100 characters"),
        (lambda: every(HOUR, priority=101), "priority must be a whole number between -100 and 100"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(make, message):
    with pytest.raises(InvalidTask, match=message):
        make()


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError, match=r"schedule=every\(.*\) has no option 'overlaps'; there are args, kwargs"):
        every(HOUR, overlaps="skip")


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("0 3 * * *", r"schedule must be what cron\(\) or every\(\) makes, or a list of that, but has '0 3 \* \* \*'"),
        (HOUR, "schedule must be what"),
        (every(HOUR, args=[1]), "schedule='every hour': the task needs b"),
        (every(HOUR, args=[1, 2, 3]), "too many positional arguments"),
        (every(HOUR, args=[1], kwargs={"c": 1}), "unexpected keyword argument 'c'"),
        (every(HOUR, args=[1, object()]), "Argument 'b' of .* cannot be enqueued"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_when_it_is_declared(schedule, message):
    with pytest.raises(InvalidTask, match=message):
        task(schedule=schedule)(pair)


def test_the_context_and_what_layers_hand_in_need_not_be_given():
    def client(context, call_next):
        return call_next(client=1)

    client.provides = ("client",)
    task(takes_context=True, middleware=[client], schedule=every(HOUR, args=[1]))(with_client)
    with pytest.raises(InvalidTask, match="the task needs other"):
        task(middleware=[client], schedule=every(HOUR))(with_other)


# -- system checks --------------------------------------------------------------------------------


@pytest.fixture
def problems(monkeypatch):
    def ask(*declared) -> list[tuple[str, str]]:
        monkeypatch.setattr("django_jobqueue.checks.declared", dict(enumerate(declared)))
        found = check_installation()
        return [(one.id, one.msg) for one in found if one.id in ("jobqueue.E017", "jobqueue.E018")]

    return ask


def test_checks_find_a_schedule_that_could_enqueue_nothing(problems):
    good = copy_of(tasks.noop, schedule=(every(HOUR), cron("0 3 * * *")))
    assert problems(good) == []
    hidden = task(schedule=every(HOUR))(number)
    needs = copy_of(tasks.add, schedule=(every(HOUR),))
    (one, unfindable), (two, missing) = problems(good, hidden, needs)
    assert one == two == "jobqueue.E017"
    assert "is not the name under which this task can be found" in unfindable
    assert "tests.tasks.add has a schedule that can enqueue nothing" in missing and "needs a, b" in missing


def test_checks_find_two_of_one_name(problems):
    one = copy_of(tasks.noop, schedule=(every(HOUR, name="Nightly"), every(HOUR, name="nightly")))
    assert problems(one) == [
        ("jobqueue.E018", "There are 2 schedules named 'nightly'; only one of them would be kept.")
    ]


# -- testing --------------------------------------------------------------------------------------


def test_a_project_asks_for_the_next_ticks():
    start = datetime(2026, 10, 24, 12, tzinfo=UTC)
    found = testing.ticks(cron("30 2 * * *", tz="Europe/Berlin"), 2, start)
    assert found == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]
    assert testing.ticks(every(HOUR), 2, start) == [start + HOUR, start + 2 * HOUR]
    assert testing.ticks(every(HOUR), 1)[0] > datetime.now(UTC)


def test_a_project_fires_a_schedule(db):
    entries = (
        every(HOUR, args=[1, 2]),
        cron("0 3 * * *", args=[3, 4], name="nightly", queue_name="reports", priority=5),
    )
    scheduled = copy_of(tasks.add, schedule=entries)
    at = datetime(2026, 1, 1, 3, tzinfo=UTC)
    result = testing.fire(scheduled, "nightly", at)
    job = Job.objects.get(pk=result.id)
    assert (job.args, job.queue_name, job.priority) == ([3, 4], "reports", 5)
    assert job.options == {"schedule": "nightly", "scheduled_for": "2026-01-01T03:00:00+00:00"}
    with pytest.raises(LookupError, match=r"say which schedule is meant with name=…; it has tests.tasks.add, nightly"):
        testing.fire(scheduled)
    with pytest.raises(LookupError, match="it has none"):
        testing.fire(tasks.noop)


# -- the command ----------------------------------------------------------------------------------


def command(*args) -> str:
    out = StringIO()
    call_command("jobqueue", "schedules", *args, stdout=out)
    return out.getvalue()


def test_the_command_lists_pauses_resumes_and_runs(db):
    assert "There are no schedules." in command()
    for name, spec in (("nightly", "30 2 * * *"), ("often", "every 5 minutes")):
        schedule = Schedule.objects.create(name=name, spec=spec, time_zone="UTC", task_path="tests.tasks.noop")
        retime_schedule(schedule.pk)
    assert "At 02:30 every day, UTC" in command() and "active" in command()
    assert command("--pause", "often") == "often is paused.\n"
    assert command("--pause", "often", "nightly") == "often was paused already.\nnightly is paused.\n"
    assert command("--resume", "often") == "often goes on.\n"
    assert command("--run-now", "nightly") == f"nightly: job #{Job.objects.get().pk}.\n"
    told = {one["name"]: one for one in json.loads(command("--json"))["schedules"]}
    assert told["nightly"]["status"] == "paused" and told["nightly"]["last_job"] == Job.objects.get().pk
    assert told["often"]["description"] == "Every 5 minutes" and told["often"]["next_run_at"]
    with pytest.raises(CommandError, match="There is no schedule nothing"):
        command("--pause", "nothing")
    Schedule.objects.update(task_path="tests.tasks.nothing")
    with pytest.raises(CommandError, match="cannot be enqueued: No task"):
        command("--run-now", "nightly")
