"""Control of many: jobs by a filter, in batches, each verb with its conditions in the statement that writes."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle import Cancelled, cancel, control, move, reschedule, retry, run_now, set_priority
from django_jobqueue.lifecycle import portions as module
from django_jobqueue.lifecycle.changes import CANCEL, RETRY, to_priority, to_queue, to_time
from django_jobqueue.models import Job
from django_jobqueue.models.job import JobQuerySet

from ..tasks import add, noop
from .steps import USING, enqueue, fresh, take, tick
from .steps import worker as new_worker
from .test_control import one_of_each, statuses

pytestmark = pytest.mark.django_db

NOT_STARTED = {"ready", "scheduled", "waiting"}


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)


def queues(jobs) -> dict[str, str]:
    return {name: fresh(job).queue_name for name, job in jobs.items()}


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if before[name] != after[name]}


# -- which jobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["numbers", "filter"])
def test_each_verb_takes_numbers_and_querysets_and_leaves_alone_what_it_cannot_be_done_to(by):
    jobs = one_of_each()
    chosen = Job.objects.all() if by == "filter" else None

    def some():
        return chosen if chosen is not None else (job.pk for job in jobs.values())

    before = queues(jobs)
    assert move(some(), "other") == 3
    assert changed(before, queues(jobs)) == NOT_STARTED
    assert set_priority(some(), 7) == 3
    assert {name for name, job in jobs.items() if fresh(job).priority == 7} == NOT_STARTED
    assert reschedule(some(), timezone.now() + timedelta(hours=2)) == 2
    assert fresh(jobs["ready"]).is_scheduled and fresh(jobs["ready"]).run_after == fresh(jobs["scheduled"]).run_after
    assert reschedule(some()) == 2 and not fresh(jobs["scheduled"]).is_scheduled
    assert retry(some()) == 2
    assert cancel(some()) == Cancelled(cancelled=5, requested=1)
    assert retry(some()) == 5


def test_nothing_is_done_twice():
    jobs = [enqueue() for _ in range(3)]
    later = timezone.now() + timedelta(hours=1)
    for verb, value in ((move, "other"), (set_priority, 3), (reschedule, later), (reschedule, None)):
        assert verb(Job.objects.all(), value) == len(jobs)
        assert verb(Job.objects.all(), value) == 0


def test_a_filter_may_be_of_anything(small_batches):
    jobs = [enqueue(noop.using(queue_name=f"q{number % 3}", priority=number % 2)) for number in range(20)]
    mine = [enqueue(add.using(queue_name=f"q{number % 3}", priority=number % 2), 1, 2) for number in range(20)]
    assert move(Job.objects.filter(task_path=add.module_path, pk__gt=mine[4].pk), "other") == 15
    assert {job.pk for job in Job.objects.filter(queue_name="other")} == {job.pk for job in mine[5:]}
    assert cancel(Job.objects.exclude(queue_name="other")).cancelled == len(jobs) + 5


@pytest.mark.parametrize("kind", ["ready", "scheduled", "waiting", "running", "failed", "cancelled"])
def test_every_kind_is_walked_to_its_end(small_batches, kind):
    """Also where many have the same key, as jobs of one moment have: a page may end among them."""
    enqueue_many([noop.s() for _ in range(22)])
    later = timezone.now() + timedelta(hours=1)
    alike, different = {
        "ready": ({"place": 7}, {"place": 5}),
        "scheduled": ({"place": None, "run_after": later}, {"run_after": later + timedelta(hours=1)}),
        "running": ({"status": "RUNNING", "worker_id": 3, "fence": 1}, {"worker_id": 4}),
    }.get(kind, ({"status": kind.upper()}, {"max_attempts": 2}))
    Job.objects.update(**alike)
    ids = sorted(Job.objects.values_list("pk", flat=True))
    Job.objects.filter(pk__in=ids[:5]).update(**different)
    found = [batch.values_list("pk", flat=True) for batch in module.portions(Job.objects.all(), USING, [kind])]
    assert sorted(pk for batch in found for pk in batch) == ids


def test_what_comes_while_it_works_is_left_out(small_batches):
    """Or there might be no end."""
    enqueue_many([noop.s() for _ in range(7)])
    tick()
    seen = 0
    for batch in module.portions(Job.objects.all(), USING, ["ready"]):
        seen += batch.count()
        enqueue_many([noop.s() for _ in range(5)])
        assert seen <= 7
    assert seen == 7


@pytest.mark.parametrize("kind", ["failed", "scheduled"])
def test_nor_what_comes_to_be_of_its_kind_meanwhile(small_batches, kind):
    later = timezone.now() + timedelta(hours=1)
    values = {"failed": {"status": "FAILED"}, "scheduled": {"place": None, "run_after": later}}[kind]

    def more(number):
        new = [int(result.id) for result in enqueue_many([noop.s() for _ in range(number)])]
        Job.objects.filter(pk__in=new).update(**values)

    more(7)
    seen = 0
    for batch in module.portions(Job.objects.all(), USING, [kind]):
        seen += batch.count()
        more(5)
        assert seen <= 7
    assert seen == 7


def test_no_jobs_at_all():
    assert move(Job.objects.all(), "other") == retry([]) == run_now(Job.objects.none()) == 0


# -- the place in line ----------------------------------------------------------------------------


def test_what_is_moved_keeps_its_place_and_so_its_age():
    first, second = enqueue(), enqueue(noop.using(queue_name="other"))
    tick()
    third = enqueue()
    move([third.pk, first.pk], "other")
    assert [job.pk for job in take(new_worker(), 5)] == [first.pk, second.pk, third.pk]


def test_a_job_that_must_run_alone_still_must_when_it_was_moved():
    job = enqueue()
    Job.objects.update(place=-5)
    move([job.pk], "other")
    set_priority([job.pk], 9)
    assert take(new_worker()) == []
    assert [one.pk for one in take(new_worker(), isolated=True)] == [job.pk]


def test_a_larger_priority_overtakes():
    first, second = enqueue(), enqueue()
    set_priority([second.pk], 1)
    assert [job.pk for job in take(new_worker(), 5)] == [second.pk, first.pk]


# -- the time -------------------------------------------------------------------------------------


def test_a_time_that_is_past_means_now():
    line, later = enqueue(), enqueue(noop.using(run_after=timedelta(hours=1)))
    place = line.place
    assert reschedule(Job.objects.all(), timezone.now() - timedelta(hours=1)) == 1
    assert not fresh(later).is_scheduled and fresh(line).place == place, "what is in line stays where it is"


def test_a_naive_time_is_one_of_the_projects_time_zone(settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    job = enqueue()
    noon = timezone.now().replace(tzinfo=None) + timedelta(days=2)
    assert reschedule([job.pk], noon) == 1
    assert fresh(job).run_after == timezone.make_aware(noon)


def test_g15_the_database_says_what_is_past(monkeypatch):
    job = enqueue(noop.using(run_after=timedelta(hours=1)))
    real = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: real + timedelta(days=400))
    assert reschedule([job.pk], real + timedelta(days=1)) == 1
    assert fresh(job).is_scheduled


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: to_queue(""), "1 to 100"),
        (lambda: to_queue("x" * 101), "1 to 100"),
        (lambda: to_queue(None), "1 to 100"),
        (lambda: to_priority(101), "-100 to 100"),
        (lambda: to_priority(True), "-100 to 100"),
        (lambda: to_priority("5"), "-100 to 100"),
        (lambda: to_time("tomorrow"), "datetime"),
    ],
)
def test_what_cannot_be_is_named(make, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make()


# -- how much -------------------------------------------------------------------------------------


def test_a_limit_is_kept_exactly(small_batches):
    enqueue_many([noop.s() for _ in range(10)])
    assert move(Job.objects.all(), "other", limit=5) == 5
    assert control.count(to_queue("other"), Job.objects.all()) == 5
    assert control.count(to_queue("other"), Job.objects.all(), limit=2) == 2
    assert cancel(Job.objects.all(), limit=7) == Cancelled(cancelled=7)
    assert retry([job.pk for job in Job.objects.all()], limit=4) == 4


def test_progress_is_told_after_each_batch(small_batches):
    enqueue_many([noop.s() for _ in range(7)])
    Job.objects.update(place=F("pk"))  # SQLite gives one place to all of a millisecond, and equals are in one batch
    told = []
    move(Job.objects.all(), "other", progress=lambda done: told.append(done))
    assert told == [3, 6, 7]


def test_an_interrupt_leaves_whole_batches(small_batches):
    enqueue_many([noop.s() for _ in range(9)])
    Job.objects.update(place=F("pk"))  # SQLite gives one place to all of a millisecond, and equals are in one batch

    def stop(done):
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(Job.objects.all(), "other", progress=stop)
    assert Job.objects.filter(queue_name="other").count() == 6


def test_a_batch_is_written_as_a_whole_or_not_at_all(monkeypatch):
    """Also where a change takes several statements, and the second one fails."""
    jobs = one_of_each()
    before = statuses(jobs)
    update, calls = JobQuerySet.update, []

    def fails_later(self, **values):
        calls.append(values)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return update(self, **values)

    monkeypatch.setattr(JobQuerySet, "update", fails_later)
    with pytest.raises(KeyboardInterrupt):
        cancel([job.pk for job in jobs.values()])
    assert len(calls) == 2 and statuses(jobs) == before


def test_counting_and_looking_change_nothing():
    jobs = one_of_each()
    before = list(Job.objects.order_by("pk").values())
    assert control.count(CANCEL, Job.objects.all()) == 4
    assert control.count(RETRY, Job.objects.all(), kinds=["failed"]) == 1
    assert [job.pk for job in control.examples(RETRY, Job.objects.all(), limit=9)] == [
        jobs["failed"].pk,
        jobs["cancelled"].pk,
    ]
    assert list(Job.objects.order_by("pk").values()) == before and statuses(jobs)


def test_statements_grow_with_the_batches_and_not_with_the_jobs():
    def statements(number):
        enqueue_many([noop.s() for _ in range(number)])
        with CaptureQueriesContext(connection) as queries:
            move(Job.objects.filter(queue_name="default"), "other")
        return len(queries)

    assert statements(900) <= statements(10) + 10


def test_workers_are_told(monkeypatch):
    told = []
    job = enqueue()
    monkeypatch.setattr("django_jobqueue.lifecycle.notify.look", told.append)
    move([job.pk], "other")
    set_priority([job.pk], 1)
    reschedule([job.pk], timezone.now() + timedelta(hours=1))
    run_now([job.pk])
    assert told == [USING] * 4
    move([job.pk], "other")
    cancel([job.pk])
    assert told == [USING] * 4
    retry([job.pk])
    assert len(told) == 5


def test_a_job_that_is_claimed_between_the_look_and_the_write_is_left_alone():
    first, second = enqueue(), enqueue()
    [batch] = module.portions(Job.objects.all(), USING, ["ready"])
    [taken] = take(new_worker())
    assert taken.pk == first.pk
    assert to_queue("other").write(batch) == [1]
    assert (fresh(first).queue_name, fresh(second).queue_name) == ("default", "other")
    assert to_time(timezone.now() + timedelta(hours=1)).write(batch)[0] == 1
    assert not fresh(first).is_scheduled and fresh(first).status == "RUNNING"


def test_a_filter_is_asked_again_in_the_write():
    enqueue(), enqueue()
    [batch] = module.portions(Job.objects.filter(queue_name="default"), USING, ["ready"])
    Job.objects.filter(pk=Job.objects.first().pk).update(queue_name="elsewhere", run_after=Now())
    assert to_priority(4).write(batch) == [1]
