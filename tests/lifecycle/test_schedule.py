"""What becomes of a schedule's ticks. The database's clock is set by the test, where time has to pass."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, connections
from django.db.models import DateTimeField, Func, Value
from django.db.models.functions import Cast
from django.utils import timezone

from django_jobqueue.exceptions import UnknownTask
from django_jobqueue.lifecycle import fire, pause_schedule, resume_schedule, retime_schedule, run_schedule_now, upcoming
from django_jobqueue.lifecycle import schedule as module
from django_jobqueue.middleware import Middleware
from django_jobqueue.models import Job, Schedule

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Clock:
    """Stands in for ``Now()``."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> Func:
        value = Value(self.now, output_field=DateTimeField())
        return Cast(value, DateTimeField()) if connection.vendor == "mysql" else value  # there a value is text


@pytest.fixture
def clock(db, monkeypatch) -> Clock:
    clock = Clock(START)
    monkeypatch.setattr(module, "Now", clock)
    return clock


@pytest.fixture
def add(clock):
    def add(spec: str = "* * * * *", **fields) -> Schedule:
        fields = {"name": f"schedule {Schedule.objects.count()}", "task_path": "tests.tasks.noop", **fields}
        schedule = Schedule.objects.create(spec=spec, **fields)
        retime_schedule(schedule.pk, "default")
        schedule.refresh_from_db()
        return schedule

    return add


def ticks() -> list[str]:
    """The times that the jobs were meant for, in the order in which they were enqueued."""
    options = Job.objects.order_by("pk").values_list("options", flat=True)
    return [datetime.fromisoformat(option["scheduled_for"]).strftime("%H:%M:%S") for option in options]


def finish(**fields) -> None:
    Job.objects.update(status="SUCCESSFUL", finished_at=timezone.now(), **fields)


# -- once, and not for the past -------------------------------------------------------------------


def test_g12_a_tick_is_enqueued_when_it_is_due_and_once(clock, add):
    schedule = add(args=[1], kwargs={"b": 2}, task_path="tests.tasks.add")
    assert fire(schedule.pk, "default") is None, "a new schedule does not fire for the past"
    clock.now = START + timedelta(seconds=29)
    assert fire(schedule.pk, "default") is None
    clock.now = START + timedelta(seconds=30)
    [job] = fire(schedule.pk, "default")
    assert fire(schedule.pk, "default") is None
    row = Job.objects.get()
    assert (row.pk, row.args, row.kwargs, row.task_path) == (job, [1], {"b": 2}, "tests.tasks.add")
    assert row.options == {"schedule": schedule.name, "scheduled_for": "2026-03-01T12:01:00+00:00"}
    assert row.run_after is None and row.place is not None
    schedule.refresh_from_db()
    assert schedule.next_run_at == schedule.look_at == START.replace(minute=2, second=0)
    assert schedule.last_run_at == START.replace(minute=1, second=0) and schedule.last_job_id == job


def test_who_comes_next_is_told_in_order(clock, add):
    later, sooner = add("0 13 * * *"), add("* * * * *")
    paused = add()
    pause_schedule(paused.pk)
    assert [(one.pk, one.seconds) for one in upcoming("default", 3600)] == [(sooner.pk, 30.0), (later.pk, 3570.0)]


def test_g12_a_tick_whose_enqueue_fails_is_still_due(clock, add, settings):
    class Refuses(Middleware):
        def process_enqueue(self, jobs, call_next):
            call_next(jobs)
            raise RuntimeError("not today")

    schedule = add()
    clock.now = START + MINUTE
    monkey = f"{__name__}.Refuses"
    globals()["Refuses"] = Refuses
    settings.JOBQUEUE_MIDDLEWARE = [monkey]
    with pytest.raises(RuntimeError, match="not today"):
        fire(schedule.pk, "default")
    assert not Job.objects.exists()
    module.note_failure(schedule.pk, RuntimeError("not today"), "default")
    schedule.refresh_from_db()
    assert schedule.error == "RuntimeError: not today" and schedule.next_run_at < clock.now
    settings.JOBQUEUE_MIDDLEWARE = []
    assert len(fire(schedule.pk, "default")) == 1
    schedule.refresh_from_db()
    assert schedule.error == "" and ticks() == ["12:01:00"]


@pytest.mark.parametrize("path", ["tests.tasks.nothing", "os.system"])
def test_g16_what_is_no_task_is_not_enqueued(clock, add, path):
    schedule = add(task_path=path)
    clock.now = START + MINUTE
    with pytest.raises(UnknownTask):
        fire(schedule.pk, "default")
    with pytest.raises(UnknownTask):
        run_schedule_now(schedule.pk)
    assert not Job.objects.exists()


def test_a_layer_may_leave_the_job_out(clock, add, settings):
    class DropsAll(Middleware):
        def process_enqueue(self, jobs, call_next):
            return call_next([])

    globals()["DropsAll"] = DropsAll
    schedule = add()
    clock.now = START + MINUTE
    settings.JOBQUEUE_MIDDLEWARE = [f"{__name__}.DropsAll"]
    assert fire(schedule.pk, "default") == []
    assert run_schedule_now(schedule.pk) is None
    schedule.refresh_from_db()
    assert schedule.last_job_id is None and schedule.next_run_at > clock.now


def test_the_schedule_says_which_queue_and_priority(clock, add):
    add(queue_name="reports", priority=-7)
    add()
    clock.now = START + MINUTE
    for schedule in Schedule.objects.order_by("pk"):
        fire(schedule.pk, "default")
    assert list(Job.objects.order_by("pk").values_list("queue_name", "priority")) == [("reports", -7), ("default", 0)]


def test_g12_ticks_over_a_change_of_the_clocks_are_exact(clock, add):
    """Berlin, the night to 25 October: 02:30 comes twice, and every hour is one of 25."""
    clock.now = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)  # midnight there
    nightly, hourly, even = (
        add("30 2 * * *", time_zone="Europe/Berlin"),
        add("0 * * * *", time_zone="Europe/Berlin"),
        add("every 40 minutes"),
    )
    end = clock.now + timedelta(hours=24)
    while clock.now < end:
        clock.now += timedelta(seconds=61)
        for one in upcoming("default", 0):
            if one.seconds <= 0:
                fire(one.pk, "default")
    found: dict[str, list[str]] = {}
    for options in Job.objects.order_by("pk").values_list("options", flat=True):
        moment = datetime.fromisoformat(options["scheduled_for"]).astimezone(ZoneInfo("Europe/Berlin"))
        found.setdefault(options["schedule"], []).append(f"{moment:%H:%M%z}")
    assert found[nightly.name] == ["02:30+0200"]
    assert found[hourly.name][:5] == ["01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100", "04:00+0100"]
    assert len(found[hourly.name]) == len(set(found[hourly.name])) == 24
    assert len(found[even.name]) == len(set(found[even.name])) == 36


# -- missed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catch_up", "gone", "expected"),
    [
        (1, timedelta(minutes=10), ["12:10:00"]),
        (0, timedelta(minutes=10), ["12:10:00"]),  # half a minute ago
        (0, timedelta(minutes=10, seconds=29), ["12:10:00"]),
        (3, timedelta(minutes=10), ["12:08:00", "12:09:00", "12:10:00"]),
        (30, timedelta(minutes=3), ["12:01:00", "12:02:00", "12:03:00"]),
        (1, timedelta(seconds=30), ["12:01:00"]),
    ],
)
def test_what_was_missed_is_made_up_for_as_the_schedule_says(clock, add, catch_up, gone, expected):
    schedule = add(catch_up=catch_up)
    clock.now = START + gone
    fire(schedule.pk, "default")
    assert ticks() == expected
    schedule.refresh_from_db()
    assert schedule.next_run_at == clock.now.replace(second=0) + MINUTE


def test_what_is_long_past_is_left_out_where_nothing_is_made_up_for(clock, add):
    schedule = add("0 * * * *", catch_up=0)
    clock.now = START + timedelta(hours=1, minutes=5)
    assert fire(schedule.pk, "default") == []
    schedule.refresh_from_db()
    assert schedule.next_run_at == datetime(2026, 3, 1, 14, tzinfo=UTC)


@pytest.mark.parametrize("catch_up", [0, 1])
def test_g12_ticks_that_are_only_a_little_late_were_not_missed(clock, add, catch_up):
    """A worker that looks every other second does not leave out every other tick."""
    schedule = add("every second", catch_up=catch_up)
    for _ in range(10):
        clock.now += timedelta(seconds=2)
        fire(schedule.pk, "default")
    assert len(ticks()) == len(set(ticks())) == 20
    clock.now += timedelta(hours=1)
    fire(schedule.pk, "default")
    assert len(ticks()) == 25, "those of the last five seconds"


# -- overlap --------------------------------------------------------------------------------------


def test_allow_is_the_default(clock, add):
    schedule = add()
    for _ in range(3):
        clock.now += MINUTE
        fire(schedule.pk, "default")
    assert len(ticks()) == 3


def test_skip_leaves_out_ticks_while_the_last_job_is_unfinished(clock, add):
    schedule = add(overlap="skip")
    for status in ("READY", "RUNNING", "WAITING"):
        clock.now += MINUTE
        fire(schedule.pk, "default")
        Job.objects.update(status=status)
    assert ticks() == ["12:01:00"]
    schedule.refresh_from_db()
    assert schedule.skipped == 2 and schedule.skipped_at == START.replace(minute=3, second=0)
    finish()
    clock.now += MINUTE
    fire(schedule.pk, "default")
    assert ticks() == ["12:01:00", "12:04:00"]


def test_queue_lets_one_tick_wait_behind_the_last_job(clock, add):
    schedule = add(overlap="queue")
    for _ in range(3):
        clock.now += MINUTE
        fire(schedule.pk, "default")
    schedule.refresh_from_db()
    assert ticks() == ["12:01:00"]
    assert schedule.queued_at == START.replace(minute=2, second=0) and schedule.skipped == 1
    assert schedule.look_at == clock.now + module.RECHECK < schedule.next_run_at
    finish()
    clock.now += timedelta(seconds=2)
    fire(schedule.pk, "default")
    assert ticks() == ["12:01:00", "12:02:00"]
    schedule.refresh_from_db()
    assert schedule.queued_at is None and schedule.look_at == schedule.next_run_at


def test_a_tick_that_waits_comes_before_the_next_one(clock, add):
    schedule = add(overlap="queue")
    for _ in range(2):
        clock.now += MINUTE
        fire(schedule.pk, "default")
    finish()
    clock.now += MINUTE
    fire(schedule.pk, "default")
    schedule.refresh_from_db()
    assert ticks() == ["12:01:00", "12:02:00"] and schedule.queued_at == START.replace(minute=3, second=0)


def test_cancel_asks_the_last_job_to_stop(clock, add):
    schedule = add(overlap="cancel")
    clock.now += MINUTE
    fire(schedule.pk, "default")
    clock.now += MINUTE
    fire(schedule.pk, "default")
    Job.objects.filter(status="READY").update(status="RUNNING")
    clock.now += MINUTE
    fire(schedule.pk, "default")
    first, second, third = Job.objects.order_by("pk")
    assert first.status == "CANCELLED" and second.is_cancelling and third.status == "READY"


def test_a_last_job_that_was_deleted_is_in_nobodys_way(clock, add):
    schedule = add(overlap="skip")
    clock.now += MINUTE
    fire(schedule.pk, "default")
    Job.objects.all().delete()
    clock.now += MINUTE
    assert len(fire(schedule.pk, "default")) == 1


# -- jitter ---------------------------------------------------------------------------------------


def test_jitter_puts_jobs_off_and_never_before_their_tick(clock, add):
    schedule = add(jitter=20.0)
    for _ in range(20):
        clock.now += MINUTE
        fire(schedule.pk, "default")
    late = []
    for job in Job.objects.all():
        late.append((job.run_after - datetime.fromisoformat(job.options["scheduled_for"])).total_seconds())
        assert job.is_scheduled
    assert all(0 <= seconds <= 20 for seconds in late) and len(set(late)) == 20 and max(late) > 10 > min(late)


# -- people ---------------------------------------------------------------------------------------


def test_what_passes_while_it_is_paused_was_not_missed(clock, add):
    schedule = add(catch_up=100)
    assert pause_schedule(schedule.pk) and not pause_schedule(schedule.pk)
    clock.now += timedelta(hours=1)
    assert fire(schedule.pk, "default") is None and upcoming("default", 3600) == []
    assert resume_schedule(schedule.pk) and not resume_schedule(schedule.pk)
    assert fire(schedule.pk, "default") is None
    clock.now += MINUTE
    fire(schedule.pk, "default")
    assert ticks() == ["13:01:00"]


def test_run_now_enqueues_at_once_and_moves_nothing(clock, add):
    schedule = add("0 15 * * *", overlap="skip")
    pause_schedule(schedule.pk)
    job = run_schedule_now(schedule.pk)
    again = run_schedule_now(schedule.pk)
    schedule.refresh_from_db()
    assert ticks() == ["12:00:30"] * 2 and again != job
    assert schedule.last_job_id == again and schedule.is_paused and schedule.next_run_at is None
    for verb in (pause_schedule, resume_schedule, run_schedule_now, retime_schedule):
        with pytest.raises(Schedule.DoesNotExist):
            verb(4711)


def test_a_row_that_means_no_time_hurts_only_itself(clock, add):
    schedule = add()
    clock.now += MINUTE
    Schedule.objects.filter(pk=schedule.pk).update(spec="now and then")
    with pytest.raises(ValueError, match="no cron expression"):
        fire(schedule.pk, "default")
    assert Schedule.objects.get().description == "now and then"


# -- races ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", ["allow", "queue"])
def test_g12_a_tick_is_enqueued_once_by_any_number_of_threads(queue_db, monkeypatch, overlap):
    clock = Clock(START)
    monkeypatch.setattr(module, "Now", clock)
    schedule = Schedule.objects.create(name="raced", task_path="tests.tasks.noop", spec="* * * * *", overlap=overlap)
    retime_schedule(schedule.pk, "default")
    for round in range(1, 6):
        clock.now = START + round * MINUTE
        barrier, faults = threading.Barrier(6), []

        def race(barrier=barrier, faults=faults):
            try:
                barrier.wait(10)
                for _ in range(5):
                    fire(schedule.pk, "default")
            except Exception as error:
                faults.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=race) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert faults == []
        finish()
        while fire(schedule.pk, "default"):
            pass
        assert ticks() == [f"12:0{number}:00" for number in range(1, round + 1)]
        finish()
