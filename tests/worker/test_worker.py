"""A whole worker, in this process: what becomes of the jobs that it takes."""

import asyncio
import gc
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue import Retry, enqueue_many, task
from django_jobqueue.compat import TaskResultStatus, task_backends, task_finished, task_started
from django_jobqueue.lifecycle import cancel, claim, pause
from django_jobqueue.middleware import Middleware
from django_jobqueue.models import Attempt, Job, Queue
from django_jobqueue.models import Worker as WorkerRow
from django_jobqueue.worker import claimer, maintenance
from django_jobqueue.worker.completer import Completer

from ..lifecycle.steps import attempts, enqueue, fall_silent, fresh, outcomes, take_one
from ..lifecycle.steps import worker as worker_row
from ..models import Effect
from ..tasks import (
    add,
    async_add,
    async_effect,
    async_fail,
    database_vendor,
    effect,
    effect_then_fail,
    fail_thrice,
    give_up,
    noop,
    retry_later,
    skip,
    snooze,
    succeed_at,
    unstorable,
)
from .workers import drain, make_worker, working

GATE, STARTED = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def database(queue_db):
    GATE.clear()
    STARTED.clear()
    yield
    GATE.set()


@pytest.fixture
def short_lease(settings):
    settings.TASKS = {
        "default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": [], "OPTIONS": {"LEASE": 0.6}}
    }


@task
def wait():
    STARTED.set()
    GATE.wait(20)
    return "waited"


@task(takes_context=True, max_attempts=9)
def wait_to_be_stopped(context):
    STARTED.set()
    while (reason := context.should_stop()) is None and not GATE.is_set():
        time.sleep(0.005)
    raise InterruptedError(reason)


@task(takes_context=True)
def stop_worker(context):
    context.stop_worker()


@task
async def wait_async():
    STARTED.set()
    while not GATE.is_set():
        await asyncio.sleep(0.005)
    return "waited"


NUMBERS: list[int] = []


@task(takes_context=True)
def note_worker(context):
    NUMBERS.append(context.job.worker_id)


@task(takes_context=True)
async def async_note_worker(context):
    NUMBERS.append(context.job.worker_id)


RUNNING: list[int] = []
MOST: list[int] = []


@task
def count_together():
    RUNNING.append(1)
    MOST.append(len(RUNNING))
    time.sleep(0.05)
    RUNNING.pop()


# -- from the line to the result ------------------------------------------------------------------


def test_g1_what_was_enqueued_is_run():
    results = enqueue_many(
        [add.s(1, 2), async_add.s(3, 4), effect.s("a", [1]), async_effect.s("b"), database_vendor.s()]
    )
    worker = drain()
    for result in results:
        result.refresh()
        assert result.status == TaskResultStatus.SUCCESSFUL and result.worker_ids == [str(worker.id)]
    assert [result.return_value for result in results[:2]] == [3, 7]
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["a", "b"]
    assert worker.counts == {"succeeded": 5}


def test_every_ending_is_written_down():
    jobs = {
        "failed": enqueue(give_up),
        "async failed": enqueue(async_fail),
        "thrice": enqueue(fail_thrice),
        "unstorable": enqueue(unstorable),
        "skipped": enqueue(skip),
        "snoozed": enqueue(snooze),
        "later": enqueue(retry_later.using(max_attempts=2)),
        "second": enqueue(succeed_at, 2),
    }
    drain(5)
    assert {name: (fresh(job).status, outcomes(job)) for name, job in jobs.items()} == {
        "failed": ("FAILED", ["failed"]),
        "async failed": ("FAILED", ["failed"]),
        "thrice": ("FAILED", ["retrying", "retrying", "failed"]),
        "unstorable": ("FAILED", ["failed"]),
        "skipped": ("CANCELLED", ["skipped"]),
        "snoozed": ("READY", ["snoozed"]),
        "later": ("READY", ["retrying"]),
        "second": ("SUCCESSFUL", ["retrying", "succeeded"]),
    }
    assert fresh(jobs["second"]).result == 2
    assert fresh(jobs["snoozed"]).is_scheduled and fresh(jobs["later"]).is_scheduled


def test_a_failed_tasks_own_database_work_stays_outside_transactions():
    job = enqueue(effect_then_fail, "done")
    drain()
    assert fresh(job).status == Job.Status.FAILED
    assert Effect.objects.filter(name="done").exists(), "the worker opens no transaction around a task"


def test_g3_many_jobs_and_two_workers_run_each_job_once(eventually):
    enqueue_many(effect.s(str(number)) for number in range(60))
    with working(), working():
        eventually(lambda: not Job.objects.unfinished().exists(), within=20)
    assert Job.objects.filter(status=Job.Status.SUCCESSFUL, attempts=1).count() == 60
    names = list(Effect.objects.values_list("name", flat=True))
    assert sorted(map(int, names)) == list(range(60))


def test_as_many_run_at_once_as_there_are_threads():
    RUNNING.clear(), MOST.clear()
    enqueue_many(count_together.s() for _ in range(8))
    drain(threads=3)
    assert 2 <= max(MOST) <= 3


def test_a_worker_has_a_row_from_start_to_stop():
    noop.enqueue()
    worker = drain(threads=3, queues="default,mail*")
    row = WorkerRow.objects.get()
    assert (row.pk, row.name) == (worker.id, worker.name)
    assert (row.status, row.slots, row.queues) == (WorkerRow.Status.STOPPED, 3, ["default", "mail*"])
    assert Attempt.objects.get().worker_id == worker.id


# -- draining -------------------------------------------------------------------------------------


def test_draining_an_empty_queue_ends_at_once():
    began = time.monotonic()
    drain()
    assert time.monotonic() - began < 5


def test_draining_waits_for_the_jobs_that_a_vanished_worker_held(monkeypatch):
    """They come back in line with the first look for lost jobs, which the claimer may be ahead of."""
    lost = enqueue()
    holder = worker_row()
    take_one(holder)
    fall_silent(holder)
    worker, has_looked = make_worker(drain=0.2), threading.Event()
    look, reap = worker.claimer._stop_if_drained, maintenance.reap

    def look_and_tell() -> None:
        look()
        has_looked.set()

    def reap_late(using):
        assert has_looked.wait(20)
        return reap(using)

    monkeypatch.setattr(worker.claimer, "_stop_if_drained", look_and_tell)
    monkeypatch.setattr(maintenance, "reap", reap_late)
    assert worker.run()
    assert fresh(lost).status == "SUCCESSFUL"


def test_draining_waits_for_what_is_due_soon_and_not_for_what_is_due_later():
    soon = enqueue(add.using(run_after=timedelta(seconds=0.3)), 1, 1)
    later = enqueue(add.using(run_after=timedelta(minutes=5)), 1, 1)
    drain(10)
    assert fresh(soon).status == Job.Status.SUCCESSFUL
    assert fresh(later).is_scheduled


def test_draining_overlooks_no_job_that_leaves_the_line_for_soon_while_it_looks(monkeypatch):
    """Not yet scheduled when that is asked, and not in line any more when the lines are read."""
    worker = make_worker(drain=10)
    lanes = worker.claimer.lanes
    look, put_off = lanes.look_from_the_front, []

    def look_from_the_front():
        if not put_off:
            put_off.append(enqueue(add.using(run_after=timedelta(seconds=0.3)), 1, 1))
        look()

    monkeypatch.setattr(lanes, "look_from_the_front", look_from_the_front)
    assert worker.run()
    assert fresh(put_off[0]).status == Job.Status.SUCCESSFUL


def test_a_worker_stops_after_so_many_jobs():
    enqueue_many(noop.s() for _ in range(5))
    worker = make_worker(max_jobs=3)
    assert worker.run()
    assert Job.objects.filter(status=Job.Status.SUCCESSFUL).count() == 3
    assert Job.objects.in_line().count() == 2


def test_a_worker_takes_from_its_queues_only():
    mine, other = enqueue(noop.using(queue_name="mail-eu")), enqueue(noop.using(queue_name="images"))
    drain(queues="mail*")
    assert (fresh(mine).status, fresh(other).status) == ("SUCCESSFUL", "READY")


def test_a_paused_queue_is_left_alone():
    enqueue(noop.using(queue_name="mail"))
    pause("mail")
    drain()
    assert Job.objects.in_line().count() == 1


def test_queues_that_are_met_get_a_row():
    enqueue(noop.using(queue_name="mail"))
    drain()
    assert Queue.objects.filter(name="mail").exists()


# -- jobs that cannot be run ----------------------------------------------------------------------


def test_g8_a_job_for_an_unknown_task_waits_for_a_worker_that_knows_it():
    stranger, known = enqueue(), enqueue()
    Job.objects.filter(pk=stranger.pk).update(task_path="tests.tasks.of_the_next_release")
    drain()
    row = fresh(stranger)
    assert row.is_scheduled and (row.attempts, row.tries, row.losses) == (0, 0, 0)
    assert row.run_after > timezone.now()
    assert fresh(known).status == Job.Status.SUCCESSFUL


def test_g16_a_row_naming_a_foreign_module_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "a_foreign_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    foreign, known = enqueue(), enqueue()
    Job.objects.filter(pk=foreign.pk).update(task_path="a_foreign_module.task")
    drain()
    assert "a_foreign_module" not in sys.modules
    assert fresh(foreign).is_scheduled and fresh(known).status == Job.Status.SUCCESSFUL


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.run", "django_jobqueue.lifecycle.prune", "tests.tasks.Broken"]
)
def test_g16_a_row_naming_what_is_no_task_calls_nothing(path):
    job = enqueue(add, "touch", "this")
    Job.objects.filter(pk=job.pk).update(task_path=path)
    drain()
    assert fresh(job).is_scheduled and fresh(job).attempts == 0


@pytest.mark.parametrize("damage", [{"args": {"a": 1}}, {"kwargs": [1]}, {"args": "text"}, {"task_path": ""}])
def test_g9_a_malformed_row_does_not_stop_its_queue(damage):
    bad, good = enqueue(), enqueue()
    Job.objects.filter(pk=bad.pk).update(**damage)
    drain()
    assert fresh(good).status == Job.Status.SUCCESSFUL
    assert fresh(bad).status in (Job.Status.FAILED, Job.Status.READY)
    assert fresh(bad).fence is None


def test_g9_a_priority_that_is_no_number_does_not_stop_the_queue(eventually):
    """A retry may not put a row into the line that no claim can sort."""
    job = enqueue(moves_itself, "high")
    with working():
        eventually(lambda: attempts(job))
        good = enqueue()
        eventually(lambda: fresh(good).status == Job.Status.SUCCESSFUL, within=5)
    assert fresh(job).fence is None


@task(max_attempts=2, backoff=0)
def moves_itself(priority):
    raise Retry(priority=priority, delay=0)


def test_g7_a_job_that_was_lost_twice_runs_alone():
    RUNNING.clear(), MOST.clear()
    jobs = [enqueue(count_together) for _ in range(5)]
    Job.objects.filter(pk=jobs[0].pk).update(place=-5, losses=2)
    drain(threads=3)
    assert {fresh(job).status for job in jobs} == {"SUCCESSFUL"}
    lonely = attempts(jobs[0])[0]
    for job in jobs[1:]:
        (other,) = attempts(job)
        assert other.finished_at <= lonely.started_at or other.started_at >= lonely.finished_at


def test_a_middleware_that_cannot_be_made_ends_the_worker_before_it_takes_a_job(settings):
    settings.JOBQUEUE_MIDDLEWARE = ["no.such.Layer"]
    Job.objects.create(task_path="tests.tasks.noop", enqueued_at=timezone.now())
    with pytest.raises(ImproperlyConfigured, match=r"no\.such\.Layer"):
        make_worker(drain=0).run()
    assert Job.objects.in_line().count() == 1 and not WorkerRow.objects.exists()


# -- stopping -------------------------------------------------------------------------------------


def test_g6_a_stop_lets_the_running_job_end_and_gives_the_others_back():
    running, waiting = enqueue(wait), enqueue(wait)
    with working(threads=1) as worker:
        assert STARTED.wait(10)
        worker.stop()
        time.sleep(0.05)
        assert not worker.finished.is_set()
        GATE.set()
        assert worker.finished.wait(10)
    assert (fresh(running).status, fresh(running).result) == ("SUCCESSFUL", "waited")
    row = fresh(waiting)
    assert (row.status, row.attempts, row.tries, row.place is not None) == ("READY", 0, 0, True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("made", [wait, wait_async], ids=["sync", "async"])
def test_g6_a_job_that_outlasts_the_grace_is_interrupted_at_no_cost(made):
    job = enqueue(made)
    worker, clean = make_worker(shutdown_timeout=0.1), []
    thread = threading.Thread(target=lambda run: clean.append(run()), args=[worker.run])
    thread.start()
    assert STARTED.wait(10)
    worker.stop()
    thread.join(10)
    assert clean == [made is wait_async], "a thread of ours still runs the sync job, which no interrupt reaches"
    row = fresh(job)
    assert (row.status, row.attempts, row.tries, row.losses) == ("READY", 1, 0, 0)
    assert row.place is not None and row.fence is None
    assert outcomes(job) == ["interrupted"]
    GATE.set()
    del worker, thread
    gc.collect()  # the loop under an interrupted async job is not closed: the process ends with it


def test_g6_a_stop_at_once_does_not_wait_for_the_grace():
    job = enqueue(wait)
    began = time.monotonic()
    with working(shutdown_timeout=60) as worker:
        assert STARTED.wait(10)
        worker.stop()
        worker.stop_at_once()
        assert worker.finished.wait(10)
    assert time.monotonic() - began < 20
    assert outcomes(job) == ["interrupted"]
    GATE.set()


def test_g6_a_running_job_learns_that_the_worker_stops():
    job = enqueue(wait_to_be_stopped)
    with working() as worker:
        assert STARTED.wait(10)
        worker.stop()
    (attempt,) = attempts(job)
    assert attempt.message == "InterruptedError: shutdown"


def test_g6_a_job_that_ends_in_the_moment_of_the_stop_is_written(monkeypatch):
    put = Completer.put

    def slowly(self, run):
        time.sleep(0.3)
        put(self, run)

    monkeypatch.setattr(Completer, "put", slowly)
    job = enqueue(wait)
    with working(threads=1) as worker:
        assert STARTED.wait(10)
        worker.stop()
        GATE.set()
        assert worker.finished.wait(20)
    assert (fresh(job).status, fresh(job).fence) == ("SUCCESSFUL", None)


def test_a_task_may_stop_its_worker():
    stopper = enqueue(stop_worker)
    worker = make_worker(threads=1)
    assert worker.run()
    assert fresh(stopper).status == Job.Status.SUCCESSFUL


def test_no_thread_is_left_behind(eventually):
    enqueue_many([noop.s(), async_add.s(1, 2)])
    before = set(threading.enumerate())  # the thread that notifies workers among them
    drain()
    eventually(lambda: set(threading.enumerate()) <= before)


# -- cancelled, lost ------------------------------------------------------------------------------


def test_g13_cancel_reaches_a_running_job_and_it_is_not_retried(short_lease, eventually):
    job = enqueue(wait_to_be_stopped)
    with working() as worker:
        assert STARTED.wait(10)
        assert cancel([job.pk]).requested == 1
        eventually(lambda: fresh(job).is_finished)
        assert not worker.stopping
    assert (fresh(job).status, outcomes(job)) == ("CANCELLED", ["cancelled"])


def test_g13_a_job_cancelled_before_it_started_does_not_run():
    job = enqueue(effect, "never")
    cancel([job.pk])
    drain()
    assert fresh(job).status == Job.Status.CANCELLED and not Effect.objects.exists()


def test_g2_the_jobs_of_a_vanished_worker_are_run_by_another(short_lease, eventually):
    job = enqueue(add, 1, 2)
    gone = worker_row()
    take_one(gone)
    WorkerRow.objects.filter(pk=gone.pk).update(lease_until=Now() - timedelta(seconds=1))
    with working():
        eventually(lambda: fresh(job).is_finished)
    assert (fresh(job).status, fresh(job).result, outcomes(job)) == ("SUCCESSFUL", 3, ["lost", "succeeded"])


def test_g4_a_worker_that_lost_its_lease_goes_on_under_a_new_number_and_writes_nothing_of_before(
    short_lease, eventually
):
    job = enqueue(wait_to_be_stopped)
    with working(threads=1) as worker:
        assert STARTED.wait(10)
        old = worker.id
        # Another worker finds it silent, gives its job back and ends it.
        WorkerRow.objects.filter(pk=old).update(status="LOST")
        Job.objects.filter(pk=job.pk).update(status="SUCCESSFUL", fence=None, worker=None, result="by another")
        eventually(lambda: worker.id != old)
        after = enqueue(add, 1, 2)
        eventually(lambda: fresh(after).is_finished)
    assert (fresh(job).status, fresh(job).result, attempts(job)) == ("SUCCESSFUL", "by another", [])
    assert attempts(after)[0].worker_id not in (old, None), "a busy machine may have cost it the next lease as well"
    assert worker.counts["lost"] >= 1


def test_g4_jobs_that_were_claimed_while_the_lease_was_lost_go_back_at_no_cost(monkeypatch, eventually):
    claimed = []

    def lose_lease_meanwhile(*args, **kwargs):
        jobs = claim(*args, **kwargs)
        if jobs and not claimed:
            claimed.append(worker.id)
            worker._start_over()
        return jobs

    monkeypatch.setattr(claimer, "claim", lose_lease_meanwhile)
    with working() as worker:
        job = enqueue(add, 1, 2)
        eventually(lambda: fresh(job).is_finished)
    assert claimed and worker.id not in claimed
    assert [attempt.worker_id for attempt in attempts(job)] == [worker.id]
    assert (fresh(job).tries, fresh(job).losses) == (1, 0)


@pytest.mark.parametrize("task", [note_worker, async_note_worker], ids=["sync", "async"])
def test_g3_jobs_that_come_back_from_a_claim_after_its_number_was_given_up_do_not_start(
    short_lease, monkeypatch, eventually, task
):
    """Between the look at the number and the dispatch: nobody has marked them as lost, for nobody had them."""
    claimed = []
    NUMBERS.clear()

    def dispatch(jobs):
        if not claimed:
            claimed.append(worker.id)
            WorkerRow.objects.filter(pk=worker.id).update(status="LOST")
            worker._start_over()
        real(jobs)

    with working() as worker:
        real = worker.claimer._dispatch
        monkeypatch.setattr(worker.claimer, "_dispatch", dispatch)
        job = enqueue(task)
        eventually(lambda: fresh(job).is_finished)
    assert claimed and claimed[0] not in NUMBERS and len(NUMBERS) == 1
    assert outcomes(job) == ["lost", "succeeded"]


# -- signals --------------------------------------------------------------------------------------


@pytest.fixture
def signals():
    seen = []

    def receive(sender, task_result, signal, **kwargs):
        name = "started" if signal is task_started else "finished"
        seen.append((name, task_result.id, str(task_result.status), sys.exc_info()[0], task_result))

    for signal in (task_started, task_finished):
        signal.connect(receive)
    yield seen
    for signal in (task_started, task_finished):
        signal.disconnect(receive)


def test_start_and_end_are_announced_once_with_the_exception_at_hand(signals):
    good, bad = enqueue(add, 1, 2), enqueue(fail_thrice)
    drain(5)
    of_good = [one[:4] for one in signals if one[1] == str(good.pk)]
    of_bad = [one[:4] for one in signals if one[1] == str(bad.pk)]
    assert of_good == [
        ("started", str(good.pk), "RUNNING", None),
        ("finished", str(good.pk), "SUCCESSFUL", None),
    ]
    assert [one[0] for one in of_bad] == ["started"] * 3 + ["finished"], "a retry is no end"
    assert of_bad[-1][2] == "FAILED" and of_bad[-1][3].__name__ == "Broken"
    result = next(one[4] for one in signals if one[1] == str(good.pk) and one[0] == "finished")
    assert result.return_value == 3 and result.is_finished
    stored = task_backends["default"].get_result(str(bad.pk))
    final = next(one[4] for one in signals if one[1] == str(bad.pk) and one[0] == "finished")
    assert len(final.errors) == len(stored.errors) == 3
    assert final.attempts == stored.attempts == 3


def test_g9_a_receiver_that_raises_holds_up_nothing():
    def receive(sender, task_result, **kwargs):
        raise SystemExit if task_result.args else LookupError("receiver")

    task_finished.connect(receive)
    try:
        jobs = [enqueue(add, 1, 2), enqueue(noop), enqueue(add, 3, 4)]
        drain()
    finally:
        task_finished.disconnect(receive)
    assert {fresh(job).status for job in jobs} == {"SUCCESSFUL"}


def test_the_end_of_a_cancelled_job_whose_worker_died_is_announced(signals, short_lease, eventually):
    job = enqueue(noop.using(max_attempts=9))
    gone = worker_row()
    take_one(gone)
    cancel([job.pk])
    WorkerRow.objects.filter(pk=gone.pk).update(lease_until=Now() - timedelta(seconds=1))
    with working():
        eventually(lambda: fresh(job).is_finished)
        time.sleep(0.2)
    assert fresh(job).status == Job.Status.CANCELLED
    assert [one[:3] for one in signals] == [("finished", str(job.pk), "FAILED")]


# -- middleware -----------------------------------------------------------------------------------


class Audit(Middleware):
    seen: list[str] = []

    def process_job(self, context, call_next):
        result = call_next()
        Audit.seen.append(f"{context.job.task_name} by {context.worker.name}: {result}")
        return f"audited {result}"


def test_the_projects_middleware_is_around_every_job(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{__name__}.Audit"]
    Audit.seen.clear()
    one, two = enqueue(add, 1, 2), enqueue(async_add, 3, 4)
    worker = drain()
    assert (fresh(one).result, fresh(two).result) == ("audited 3", "audited 7")
    assert sorted(Audit.seen) == [f"add by {worker.name}: 3", f"async_add by {worker.name}: 7"]
