"""Pause and resume: queues, tasks, and keys."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from django_jobqueue.lifecycle import QueueSelector, pause, paused_tasks, resume, return_held
from django_jobqueue.lifecycle.pauses import held_back
from django_jobqueue.models import Job, Pause, Queue
from django_jobqueue.models.pause import HOLD, HOLD_LEFT

from ..tasks import add, noop
from .steps import USING, end, enqueue, fresh, started, succeeded, take
from .steps import worker as new_worker

pytestmark = pytest.mark.django_db


# -- queues ---------------------------------------------------------------------------------------


def test_a_paused_queue_keeps_its_jobs_until_it_is_resumed():
    mail, other = enqueue(noop.using(queue_name="mail")), enqueue()
    assert pause("mail")
    assert [job.pk for job in take(new_worker(), 5)] == [other.pk]
    assert resume("mail")
    assert [job.pk for job in take(new_worker(), 5)] == [mail.pk]


def test_pausing_and_resuming_say_whether_they_changed_anything():
    assert not resume("mail"), "nobody knows this queue"
    assert pause("mail") and not pause("mail")
    assert resume("mail") and not resume("mail")
    assert not Queue.objects.get(name="mail").is_paused


def test_pausing_twice_keeps_the_time_of_the_first():
    pause("mail")
    at = Queue.objects.get(name="mail").paused_at
    pause("mail")
    assert Queue.objects.get(name="mail").paused_at == at


def test_jobs_can_be_enqueued_in_a_paused_queue_and_running_ones_end():
    running = started(noop.using(queue_name="mail"))
    pause("mail")
    enqueue(noop.using(queue_name="mail"))
    assert end(running, succeeded()) == {running.pk: "SUCCESSFUL"}
    assert take(new_worker(), 5) == []


# -- tasks ----------------------------------------------------------------------------------------


def test_a_task_is_paused_by_itself_or_by_its_path():
    assert pause(task=noop) and not pause(task="tests.tasks.noop")
    assert pause(task="shop.tasks.unknown")
    assert paused_tasks(USING) == ("shop.tasks.unknown", "tests.tasks.noop")
    assert resume(task="tests.tasks.noop") and not resume(task=noop)
    assert paused_tasks(USING) == ("shop.tasks.unknown",)


def test_pausing_a_task_twice_keeps_the_time_of_the_first():
    pause(task=noop)
    at = Pause.objects.get().paused_at
    pause(task=noop)
    assert Pause.objects.get().paused_at == at


@pytest.mark.parametrize("named", [{}, {"queue_name": "a", "task": "b"}, {"task": "a", "key": "b"}, {"key": 7}])
@pytest.mark.parametrize("verb", [pause, resume])
def test_one_thing_must_be_named(verb, named):
    with pytest.raises(TypeError, match="one of them"):
        verb(**named)


@pytest.mark.parametrize("named", [{"task": ""}, {"key": ""}, {"task": "x" * 256}])
def test_names_have_a_length(named):
    with pytest.raises(ValueError, match="1 to 255"):
        pause(**named)


def test_a_queue_a_task_and_a_key_of_one_name_are_three_things():
    assert pause("x") and pause(task="x") and pause(key="x")
    assert resume(task="x")
    assert Queue.objects.get().is_paused and [str(row) for row in Pause.objects.in_force()] == ["key x"]


def test_what_is_paused_and_has_jobs_in_line_is_told():
    pause("mail")
    pause("empty")
    pause(task=noop)
    pause(task=add)
    enqueue(noop.using(queue_name="mail"))
    everything = QueueSelector.parse("")
    assert held_back(everything, USING) == ["queue mail"]
    enqueue(noop.using(queue_name="other"))
    assert held_back(everything, USING) == ["queue mail", "task tests.tasks.noop"]
    assert held_back(QueueSelector.parse("mail"), USING) == ["queue mail"]
    assert held_back(QueueSelector.parse("third"), USING) == []


@pytest.mark.parametrize("kind", ["slot", "moment"])
def test_a_paused_key_that_has_jobs_to_run_is_told(kind):
    pause(key="tenant-7")
    pause(key="idle")
    job = enqueue(noop.using(queue_name="mail"))
    assert held_back(QueueSelector(), USING) == []
    if kind == "slot":
        Job.objects.filter(pk=job.pk).update(status="WAITING", concurrency_key="tenant-7")
    else:
        moment = Pause.objects.get(name="tenant-7").held_until
        Job.objects.filter(pk=job.pk).update(place=None, run_after=moment)
        Pause.objects.filter(name="idle").update(held_until=moment + timedelta(seconds=1))
    assert held_back(QueueSelector.parse("mail"), USING) == ["key tenant-7"]
    assert held_back(QueueSelector.parse("other"), USING) == []


# -- keys -----------------------------------------------------------------------------------------


def held(number: int = 1) -> list[Job]:
    """Jobs that have been put off because their key is paused."""
    moment = Pause.objects.get().held_until
    jobs = [enqueue() for _ in range(number)]
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(place=None, run_after=moment)
    return jobs


def test_resuming_a_key_puts_in_line_what_was_put_off_and_nothing_else(monkeypatch):
    monkeypatch.setattr("django_jobqueue.lifecycle.pauses.CHUNK", 2)
    pause(key="tenant-7")
    jobs, other = held(5), enqueue()
    Job.objects.filter(pk=other.pk).update(place=None, run_after=Now() + HOLD)
    assert resume(key="tenant-7")
    assert not any(fresh(job).is_scheduled for job in jobs)
    assert fresh(other).is_scheduled
    assert {job.pk for job in take(new_worker(), 9)} == {job.pk for job in jobs}


def test_what_is_put_off_after_the_key_was_resumed_is_returned_all_the_same():
    """A job comes to the pause, the pause ends, and then its outcome is written."""
    pause(key="tenant-7")
    resume(key="tenant-7")
    assert not resume(key="tenant-7") and not Pause.objects.in_force().exists()
    [job] = held()
    assert return_held(USING) == 1
    assert not fresh(job).is_scheduled


def test_a_resumed_key_can_be_paused_again_and_what_was_on_its_way_is_found_then_too():
    pause(key="tenant-7")
    resume(key="tenant-7")
    moment = Pause.objects.get().held_until
    assert pause(key="tenant-7") and not pause(key="tenant-7")
    assert Pause.objects.get().held_until == moment
    [job] = held()
    assert return_held(USING) == 0 and fresh(job).is_scheduled
    resume(key="tenant-7")
    assert not fresh(job).is_scheduled


def test_a_resumed_key_is_forgotten_when_nothing_can_wait_for_its_moment_any_more():
    pause(key="tenant-7")
    pause(key="tenant-8")
    pause(task=noop)
    resume(key="tenant-7")
    return_held(USING)
    assert Pause.objects.count() == 3
    Pause.objects.filter(kind="key").update(held_until=Now() - 2 * HOLD_LEFT)
    return_held(USING)
    assert {str(row) for row in Pause.objects.all()} == {"key tenant-8", "task tests.tasks.noop"}


def test_nothing_paused_is_one_small_question(django_assert_num_queries):
    with django_assert_num_queries(1):
        assert return_held(USING) == 0


def test_a_long_key_is_named_as_its_limit_cuts_it():
    key = "tenant-" + "x" * 300
    assert pause(key=key) and not pause(key=key)
    assert len(Pause.objects.get().name) <= 200
    assert resume(key=key)


@pytest.mark.parametrize("verb", [pause, resume])
def test_a_pause_wakes_the_workers(verb, monkeypatch):
    told = []
    pause(key="b")
    pause("b")
    pause(task="b")
    monkeypatch.setattr("django_jobqueue.lifecycle.notify.look", told.append)
    name = "a" if verb is pause else "b"
    for named in ({"queue_name": name}, {"task": name}, {"key": name}):
        assert verb(**named)
        # the claim itself leaves out a queue that is paused: nobody has to know of it before
        assert told == ([] if verb is pause and "queue_name" in named else [USING])
        told.clear()
        assert not verb(**named) and not told
