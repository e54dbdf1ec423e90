"""manage.py jobqueue retry|cancel|move|priority|reschedule: many jobs, by conditions."""

from __future__ import annotations

import json
import signal
import sys
from argparse import ArgumentTypeError
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue import chain, enqueue_many, group, task
from django_jobqueue.lifecycle import portions
from django_jobqueue.management import bulk as module
from django_jobqueue.management.selection import at_least_one, moment
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.models import Batch, Job

from ..lifecycle.steps import end, enqueue, failed, fresh, started
from ..tasks import add, noop
from .test_jobqueue import cancelled_job, failed_job, refused, say, tell

pytestmark = pytest.mark.django_db


@task(middleware=[Concurrency], concurrency=1, concurrency_key="tenant-{tenant}")
def limited(tenant):
    pass


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(portions, "BATCH", 3)


def in_line(number):
    """Of one moment: by SQLite's clock they may be of several, and where one ends a batch may end too."""
    enqueue_many([noop.s() for _ in range(number)])
    Job.objects.update(place=1)


# -- the verbs ------------------------------------------------------------------------------------


def test_move_takes_what_has_not_started():
    ready = enqueue()
    assert tell("move", "--to", "other", "--queue", "default") == {"moved": 1}
    running = started(add, 1, 2)
    assert (
        say("move", "--to", "third", ready.pk, running.pk)
        == "1 job moved. 1 job left alone: there already, or started."
    )
    assert (fresh(ready).queue_name, fresh(running).queue_name) == ("third", "default")


def test_priority_may_be_negative():
    jobs = [enqueue() for _ in range(2)]
    assert say("priority", "--to", "-5", "--task", noop.module_path) == "2 jobs given another priority."
    assert {fresh(job).priority for job in jobs} == {-5}


def test_reschedule_by_a_span_goes_by_the_clock_of_the_database(monkeypatch):
    job = enqueue()
    real = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: real + timedelta(days=400))
    assert tell("reschedule", "--to", "2h", "--status", "ready") == {"rescheduled": 1}
    assert timedelta(hours=1, minutes=58) < fresh(job).run_after - real < timedelta(hours=2, minutes=2)
    assert tell("reschedule", "--to", "now", job.pk) == {"rescheduled": 1}
    assert not fresh(job).is_scheduled
    assert tell("reschedule", "--to", "2h", "--queue", "empty") == {"rescheduled": 0}


def test_reschedule_of_no_jobs_at_all():
    assert tell("reschedule", "--to", "2h", "--status", "ready") == {"rescheduled": 0}


# -- conditions -----------------------------------------------------------------------------------


def test_conditions_together_mean_what_meets_all():
    mine = failed_job(noop.using(queue_name="mail"))
    others = [failed_job()]
    young = failed_job(noop.using(queue_name="mail"))
    Job.objects.exclude(pk=young.pk).update(enqueued_at=Now() - timedelta(days=2))
    args = ["--task", noop.module_path, "--queue", "mail", "--older-than", "1d", "--status", "failed"]
    assert tell("retry", *args) == {"retried": 1, "held": 0}
    assert fresh(mine).status == "READY" and {fresh(job).status for job in [*others, young]} == {"FAILED"}


@pytest.mark.parametrize("text", ["ConnectionError", "builtins.ConnectionError", "port 25"])
def test_by_the_error_of_the_latest_attempt(text):
    jobs = []
    for error in (ConnectionError("mail.example:port 25"), ValueError("no")):
        job = started()
        end(job, failed(error))
        jobs.append(job)
    assert tell("retry", "--error", text) == {"retried": 1, "held": 0}
    assert [fresh(job).status for job in jobs] == ["READY", "FAILED"]


def test_an_error_of_long_ago_is_none():
    job = started()
    end(job, failed(ConnectionError("no")))
    say("retry", job.pk)
    [again] = [started_again(job)]
    end(again, failed(ValueError("no")))
    assert tell("retry", "--error", "ConnectionError") == {"retried": 0, "held": 0}


def started_again(job):
    from ..lifecycle.steps import take_one, worker

    taken = take_one(worker())
    assert taken.pk == job.pk
    return taken


def test_by_status():
    failed_one, cancelled_one = failed_job(), cancelled_job()
    assert tell("retry", "--status", "cancelled") == {"retried": 1, "held": 0}
    assert (fresh(failed_one).status, fresh(cancelled_one).status) == ("FAILED", "READY")
    later = enqueue(noop.using(run_after=timedelta(hours=1)))
    assert tell("cancel", "--status", "scheduled", "--status", "waiting") == {"cancelled": 1, "requested": 0}
    assert (fresh(later).status, fresh(cancelled_one).status) == ("CANCELLED", "READY")


def test_by_batch():
    """As the admin does it: nobody can add to one that is cancelled, and a retry is of all that comes after."""
    noop.enqueue()
    group(noop.s(), noop.s()).then(noop.si()).enqueue()
    batch = Batch.objects.get()
    assert tell("cancel", "--batch", batch.pk, "--limit", 1) == {"cancelled": 1, "requested": 0}
    assert Batch.objects.get().cancelled_at is None
    assert tell("cancel", "--batch", batch.pk) == {"cancelled": 2, "requested": 0}
    assert Batch.objects.get().cancelled_at is not None and Job.objects.in_line().count() == 1
    assert tell("retry", "--batch", batch.pk)["retried"] == 2
    assert Batch.objects.get().cancelled_at is None
    assert sorted(Job.objects.filter(batch=batch.pk).values_list("status", flat=True)) == ["READY", "READY", "WAITING"]
    assert "no batch #99" in refused("cancel", "--batch", 99)


def test_what_a_batch_is_to_do_at_its_end_is_not_cancelled_with_it():
    batch_id = chain(noop.s(), noop.si()).finally_(noop.si()).enqueue().batch_id
    assert tell("cancel", "--batch", batch_id, "--dry-run")["cancelled"] == 2
    assert tell("cancel", "--batch", batch_id) == {"cancelled": 2, "requested": 0}
    assert list(Job.objects.order_by("pk").values_list("status", flat=True)) == ["CANCELLED", "CANCELLED", "WAITING"]


def test_by_concurrency_key():
    for tenant in "aab":
        limited.enqueue(tenant)
    assert tell("cancel", "--key", "tenant-a") == {"cancelled": 2, "requested": 0}
    assert Job.objects.waiting().get().concurrency_key == "tenant-b"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["move", "--to", "x", "--status", "running"], "cannot be done to jobs that are running"),
        (["retry", "--status", "ready"], "only: failed, cancelled"),
        (["move", "--to", "x"], "Say which jobs"),
        (["move", "--task", "x"], "--to"),
        (["move", "--to", "", "--task", "x"], "1 to 100"),
        (["priority", "--to", "101", "--task", "x"], "-100 to 100"),
        (["priority", "--to", "high", "--task", "x"], "-100 to 100"),
        (["reschedule", "--to", "tomorrow", "--task", "x"], "2030-12-24T18:00"),
        (["cancel", "--task", "x", "--limit", "0"], "from 1 on"),
        (["cancel", "--task", "x", "7"], "either by their numbers or by --task"),
        (["cancel", "--older-than", "1d", "7"], "either by their numbers or by --older-than"),
        (["cancel", "--status", "odd"], "odd"),
        (["pause"], "Say what"),
        (["pause", "--task", ""], "1 to 255"),
    ],
)
def test_what_cannot_be_is_named(args, words):
    assert words in refused(*args)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("now", None),
        ("2h", timedelta(hours=2)),
        ("90", timedelta(seconds=90)),
        ("2030-12-24T18:00", (2030, 12, 24, 18, 0)),
        ("2030-12-24 18:00+01:00", (2030, 12, 24, 18, 0)),
    ],
)
def test_moments(text, found):
    moved = moment(text)
    assert (moved if found is None or isinstance(found, timedelta) else tuple(moved.timetuple())[:5]) == found


@pytest.mark.parametrize("text", ["", "tomorrow", "2030-13-01T00:00", "-1h", "9" * 400 + "d"])
def test_what_is_no_moment(text):
    with pytest.raises(ArgumentTypeError, match="2030-12-24"):
        moment(text)


def test_numbers_from_one_on():
    assert at_least_one("3") == 3
    with pytest.raises(ArgumentTypeError):
        at_least_one("1.5")


# -- how much -------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_shows_the_first(small_batches):
    jobs = [enqueue(add, number, 1) for number in range(8)]
    before = list(Job.objects.order_by("pk").values())
    text = say("move", "--to", "other", "--queue", "default", "--dry-run")
    assert text.splitlines()[0] == "8 jobs would be moved. Nothing was changed."
    assert f"#{jobs[0].pk}  READY  default  add(0, 1)" in text and text.endswith("…")
    data = tell("cancel", "--queue", "default", "--dry-run", "--limit", "3")
    assert data == {"dry_run": True, "cancelled": 3, "first": [job.pk for job in jobs[:3]]}
    assert say("retry", "--all", "--dry-run") == "0 jobs would be put back in line. Nothing was changed."
    assert list(Job.objects.order_by("pk").values()) == before


def test_a_limit(small_batches):
    in_line(8)
    assert tell("cancel", "--queue", "default", "--limit", "5") == {"cancelled": 5, "requested": 0}
    assert Job.objects.in_line().count() == 3


# -- progress and interrupts ----------------------------------------------------------------------


class Terminal(StringIO):
    def isatty(self):
        return True


class Bar:
    def __init__(self):
        self.told = []

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.told.append("end")

    def add_task(self, name, total):
        self.told.append(total)

    def update(self, row, completed):
        self.told.append(completed)


@pytest.fixture
def bar(monkeypatch):
    made = Bar()
    monkeypatch.setattr(module, "make_bar", lambda: made)
    return made


def test_a_terminal_has_a_bar(small_batches, bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    in_line(8)
    say("cancel", "--queue", "default")
    assert bar.told == [8, 3, 6, 8, "end"]


@pytest.mark.parametrize("where", ["pipe", "json"])
def test_nothing_else_has(bar, monkeypatch, where):
    monkeypatch.setattr(sys, "stderr", Terminal() if where == "json" else StringIO())
    enqueue()
    say("cancel", "--queue", "default", *["--json"] * (where == "json"))
    assert bar.told == [] and sys.stderr.getvalue() == ""


def test_without_rich_there_are_lines(small_batches, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(module, "make_bar", lambda: None)
    monkeypatch.setattr(module, "LINE_INTERVAL", 0)
    in_line(5)
    say("cancel", "--queue", "default")
    assert sys.stderr.getvalue().splitlines() == ["3 jobs so far", "5 jobs so far"]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_leaves_whole_batches_and_says_how_many(small_batches, monkeypatch, as_json):
    """A real SIGINT, in the middle of the second batch's statement."""
    in_line(9)
    write, batch = module.control._write, []

    def interrupted(*args):
        batch.append(1)
        if len(batch) == 2:
            signal.raise_signal(signal.SIGINT)
        return write(*args)

    monkeypatch.setattr(module.control, "_write", interrupted)
    out = StringIO()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as exit:
        call_command("jobqueue", "move", "--to", "other", "--queue", "default", *["--json"] * as_json, stdout=out)
    assert exit.value.code == 130 and signal.getsignal(signal.SIGINT) is before
    assert Job.objects.filter(queue_name="other").count() == 6
    if as_json:
        assert json.loads(out.getvalue()) == {"moved": 6, "interrupted": True}
    else:
        assert out.getvalue().strip() == "Interrupted. Before that: 6 jobs moved. The others are as they were."


# -- pauses ---------------------------------------------------------------------------------------


def test_tasks_and_keys_are_paused_beside_queues():
    assert say("pause", "--task", noop.module_path, "--key", "tenant-7").splitlines() == [
        "tests.tasks.noop is paused.",
        "tenant-7 is paused.",
    ]
    assert tell("pause", "--key", "tenant-7", "--key", "tenant-8") == {"paused": [], "keys": ["tenant-8"]}
    text = say("status")
    assert "Paused   task tests.tasks.noop" in text and "Paused   key tenant-7, tenant-8" in text
    assert [(one["kind"], one["name"]) for one in tell("status")["pauses"]] == [
        ("task", "tests.tasks.noop"),
        ("key", "tenant-7"),
        ("key", "tenant-8"),
    ]
    assert tell("resume", "--task", noop.module_path, "--key", "tenant-7") == {
        "resumed": [],
        "tasks": [noop.module_path],
        "keys": ["tenant-7"],
    }
    assert say("resume", "--key", "tenant-7") == "tenant-7 was not paused."
