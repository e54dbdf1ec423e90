"""What every dialect promises, on the database that the suite runs on."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.models.functions import Now

from django_jobqueue.dialects import Ending, Fields, Lane, Release, Success, get_dialect
from django_jobqueue.keys import Slots
from django_jobqueue.lifecycle import pause
from django_jobqueue.models import Attempt, Job

from ..admin.plans import prepared
from ..lifecycle.steps import database_now, tick

pytestmark = pytest.mark.django_db(transaction=True)

DEFAULT = Lane("default", 0)
FENCE, WORKER = 2**62 + 1, 7


@pytest.fixture
def dialect():
    return get_dialect("default")


def make(number=1, **fields) -> list[Job]:
    fields = {"task_path": "tests.tasks.noop", "enqueued_at": datetime.now(UTC), **fields}
    jobs = [Job(**fields) for _ in range(number)]
    get_dialect("default").insert(jobs)
    return jobs


def pks(jobs) -> list[int]:
    return [job.pk for job in jobs]


def ending(job: Job, *, fence=FENCE, outcome="succeeded", waited=0.0, took=0.0, **fields) -> Ending:
    fields = {"status": "SUCCESSFUL", "final": True, **fields}
    texts = {name: fields.pop(name) for name in ("message", "exception_class_path", "traceback") if name in fields}
    return Ending(job.pk, fence, WORKER, waited, took, Fields(**fields), outcome, **texts)


def again(**fields) -> dict:
    return {"status": "READY", "final": False, "outcome": "retrying", **fields}


def claimed(dialect, number=1, **fields) -> list[Job]:
    make(number, **fields)
    return dialect.claim([DEFAULT], number, WORKER, FENCE)


# -- insert


@pytest.mark.parametrize("number", [1, 3, 70, 700])
def test_insert_gives_each_job_its_id_and_a_place_in_the_order_of_the_list(dialect, number):
    jobs = make(number)
    assert len(set(pks(jobs))) == number and None not in pks(jobs)
    assert pks(Job.objects.order_by("place", "id")) == pks(jobs)
    assert not any(job._state.adding for job in jobs)


@pytest.mark.parametrize("number", [3, 70])
def test_insert_keeps_every_column(dialect, number):
    call = {"args": [1, "ä\"\\\n\t'", None, {"a": [1.5, True]}], "kwargs": {"k": "☃"}, "options": {"o": [1]}}
    run_after = datetime(2040, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    make(
        number,
        **call,
        queue_name="mail\t\\",
        priority=-100,
        max_attempts=7,
        backend="other",
        run_after=run_after,
        place=None,
    )
    for job in Job.objects.all():
        assert {name: getattr(job, name) for name in call} == call
        assert (job.queue_name, job.priority, job.max_attempts, job.backend) == ("mail\t\\", -100, 7, "other")
        assert (job.status, job.place, job.run_after) == ("READY", None, run_after)
        assert (job.attempts, job.tries, job.losses, job.fence, job.worker_id) == (0, 0, 0, None, None)


@pytest.mark.parametrize("number", [2, 70])
def test_insert_mixes_scheduled_jobs_and_others(dialect, number):
    jobs = [Job(task_path="x", enqueued_at=datetime.now(UTC)) for _ in range(number)]
    for job in jobs[::2]:
        job.place, job.run_after = None, datetime(2040, 1, 1, tzinfo=UTC)
    dialect.insert(jobs)
    assert set(pks(Job.objects.scheduled())) == set(pks(jobs[::2]))
    assert pks(Job.objects.in_line().order_by("place", "id")) == pks(jobs[1::2])


@pytest.mark.parametrize("number", [2, 70])
def test_g1_insert_is_undone_with_the_callers_transaction(dialect, number):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        make(number)
        assert Job.objects.count() == number
        raise ZeroDivisionError
    assert not Job.objects.exists()


# -- lanes


def test_lanes_are_those_with_jobs_in_line(dialect):
    assert dialect.lanes() == []
    make(2, queue_name="b", priority=5)
    make(2, queue_name="b", priority=-5)
    make(2, queue_name="a")
    make(1, queue_name="scheduled", place=None, run_after=datetime(2040, 1, 1, tzinfo=UTC))
    for status in ("RUNNING", "SUCCESSFUL", "FAILED", "CANCELLED", "WAITING"):
        make(1, queue_name=status.lower(), status=status)
    assert sorted(dialect.lanes()) == [("a", 0), ("b", -5), ("b", 5)]


# -- claim


def test_claim_takes_the_head_of_the_line(dialect):
    jobs = make(5)
    found = dialect.claim([DEFAULT], 3, WORKER, FENCE)
    assert pks(found) == pks(jobs[:3])
    for job in found:
        row = Job.objects.get(pk=job.pk)
        state = ("RUNNING", WORKER, FENCE, 1, 1)
        assert (row.status, row.worker_id, row.fence, row.attempts, row.tries) == state
        assert (job.status, job.worker_id, job.fence, job.attempts, job.tries) == state
        assert job.started_at == row.started_at
        assert abs(database_now() - row.started_at) < timedelta(seconds=5)
        assert (job.losses, job.max_attempts, job.task_path, job.queue_name) == (0, 1, "tests.tasks.noop", "default")
    assert pks(dialect.claim([DEFAULT], 10, WORKER, FENCE + 1)) == pks(jobs[3:])
    assert dialect.claim([DEFAULT], 10, WORKER, FENCE + 2) == []


def test_claim_goes_through_the_lanes_in_their_order(dialect):
    a, b, other = make(2, queue_name="a"), make(2, queue_name="b", priority=3), make(1, queue_name="c")
    found = dialect.claim([Lane("b", 3), Lane("a", 0), Lane("none", 0)], 3, WORKER, FENCE)
    assert pks(found) == [*pks(b), a[0].pk]
    assert pks(Job.objects.in_line().order_by("pk")) == pks([a[1], *other])


def test_claim_takes_nothing_that_is_not_in_line(dialect):
    make(1, place=None, run_after=datetime(2020, 1, 1, tzinfo=UTC))
    for status in ("RUNNING", "SUCCESSFUL", "FAILED", "CANCELLED", "WAITING"):
        make(1, status=status)
    assert dialect.claim([DEFAULT], 10, WORKER, FENCE) == []
    assert not Job.objects.filter(fence=FENCE).exists()


def test_claim_keeps_apart_the_jobs_that_must_run_alone(dialect):
    suspects, jobs = make(2), make(2)
    for job in suspects:
        Job.objects.filter(pk=job.pk).update(place=-job.pk)
    assert sorted(pks(dialect.claim([DEFAULT], 10, WORKER, FENCE))) == pks(jobs)
    assert len(dialect.claim([DEFAULT], 1, WORKER, FENCE + 1, isolated=True)) == 1
    assert len(dialect.claim([DEFAULT], 9, WORKER, FENCE + 2, isolated=True)) == 1
    assert dialect.claim([DEFAULT], 9, WORKER, FENCE + 3, isolated=True) == []


def test_g3_two_claims_at_once_never_take_one_job(dialect):
    jobs, found, start = make(400), [], threading.Barrier(4)

    def take(number):
        try:
            start.wait()
            while some := dialect.claim([DEFAULT], 7, number, FENCE + number):
                found.extend((job.pk, number) for job in some)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=take, args=[number]) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pk for pk, _ in found) == pks(jobs)
    assert sorted(found) == list(Job.objects.order_by("pk").values_list("pk", "worker_id"))
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}


def test_a_claim_passes_by_what_another_has_locked(dialect):
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("one writer at a time: no row is ever locked")
    jobs, taken, done = make(6), [], threading.Event()

    def take():
        try:
            taken.extend(pks(dialect.claim([DEFAULT], 3, WORKER, FENCE)))
        finally:
            connections.close_all()
            done.set()

    with transaction.atomic():
        list(Job.objects.filter(pk__in=pks(jobs[:3])).select_for_update())
        thread = threading.Thread(target=take)
        thread.start()
        assert done.wait(5), "the claim waits for a lock"
    thread.join()
    assert sorted(taken) == pks(jobs[3:])


# -- promote


def test_promote_puts_the_due_jobs_in_line(dialect):
    past, future = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    due, later, ready = make(3, place=None, run_after=past), make(2, place=None, run_after=future), make(1)
    assert dialect.promote(2) == 2
    assert dialect.promote(2) == 1
    assert dialect.promote(2) == 0
    assert set(pks(Job.objects.in_line())) == set(pks(due + ready))
    assert set(pks(Job.objects.scheduled())) == set(pks(later))
    first = dialect.claim([DEFAULT], 1, WORKER, FENCE)
    assert pks(first) == pks(ready)  # they were put at the end


# -- finish


def test_finish_writes_the_job_and_its_attempt_together(dialect):
    (job,) = claimed(dialect)
    written = dialect.finish([ending(job, waited=0.25, took=1.5, result={"a": 1}, message="fine")])
    assert written == {job.pk: "SUCCESSFUL"}
    row, attempt = Job.objects.get(), Attempt.objects.get()
    assert (row.status, row.result, row.fence, row.worker_id) == ("SUCCESSFUL", {"a": 1}, None, None)
    assert (row.attempts, row.tries, row.losses) == (1, 1, 0)
    assert (attempt.job_id, attempt.number, attempt.worker_id) == (job.pk, 1, WORKER)
    assert (attempt.outcome, attempt.message, attempt.exception_class_path) == ("succeeded", "fine", "")
    assert attempt.started_at == row.started_at == job.started_at + timedelta(seconds=0.25)
    assert attempt.duration == timedelta(seconds=1.25)
    assert row.finished_at is not None


@pytest.mark.parametrize(
    "result", [None, False, 0, "", [], {}, "null", "ä☃\U0001f600\\\"'%s", -1.5e-3, 10**17, {"a": [None, {"b": []}]}]
)
def test_finish_keeps_the_result_as_it_is(dialect, result):
    (job,) = claimed(dialect)
    dialect.finish([ending(job, result=result)])
    found = Job.objects.get().result
    assert found == result and type(found) is type(result)
    assert Job.objects.filter(result__isnull=True).count() == (result is None)


def test_g4_finish_writes_nothing_without_the_fence(dialect):
    mine, other = claimed(dialect, 2)
    before = list(Job.objects.order_by("pk").values())
    assert dialect.finish([ending(mine, fence=FENCE + 1), ending(other, fence=0)]) == {}
    assert list(Job.objects.order_by("pk").values()) == before
    assert not Attempt.objects.exists()


def test_g4_a_fence_is_good_once(dialect):
    (job,) = claimed(dialect)
    assert dialect.finish([ending(job, **again(place="keep"))]) == {job.pk: "READY"}
    assert dialect.finish([ending(job)]) == {}
    (job,) = dialect.claim([DEFAULT], 1, WORKER, FENCE + 1)
    assert dialect.finish([ending(job, fence=FENCE)]) == {}
    assert dialect.finish([ending(job, fence=FENCE + 1)]) == {job.pk: "SUCCESSFUL"}
    assert list(Attempt.objects.order_by("number").values_list("number", "outcome")) == [
        (1, "retrying"),
        (2, "succeeded"),
    ]


def test_finish_of_a_batch_writes_what_is_ours_and_says_so(dialect):
    jobs = claimed(dialect, 20)
    batch = [ending(job, fence=FENCE + (number % 3 == 0), took=number) for number, job in enumerate(jobs)]
    ours = [job.pk for number, job in enumerate(jobs) if number % 3]
    assert dialect.finish(batch[::-1]) == dict.fromkeys(ours, "SUCCESSFUL")
    assert sorted(Attempt.objects.values_list("job_id", flat=True)) == ours
    assert set(pks(Job.objects.running())) == set(pks(jobs)) - set(ours)


def test_finish_of_nothing_and_of_deleted_jobs(dialect):
    (job,) = claimed(dialect)
    Job.objects.all().delete()
    assert dialect.finish([]) == {}
    assert dialect.finish([ending(job)]) == {}
    assert not Attempt.objects.exists()


def test_finish_keeps_the_place_of_a_job_that_was_interrupted(dialect):
    job, _ = claimed(dialect, 2)
    place = Job.objects.get(pk=job.pk).place
    dialect.finish([ending(job, **again(place="keep", counted=False, outcome="interrupted"))])
    row = Job.objects.get(pk=job.pk)
    assert (row.status, row.place, row.attempts, row.tries, row.losses) == ("READY", place, 1, 0, 0)
    assert row.finished_at is None
    assert pks(dialect.claim([DEFAULT], 5, WORKER, FENCE + 1)) == [job.pk]


def test_finish_puts_a_job_at_the_end_of_the_line(dialect):
    job, *_ = claimed(dialect, 1)
    others = make(2)
    tick()
    dialect.finish([ending(job, **again(place="next"))])
    assert pks(dialect.claim([DEFAULT], 5, WORKER, FENCE + 1)) == [*pks(others), job.pk]


def test_finish_schedules_a_job_by_the_clock_of_the_database(dialect):
    (job,) = claimed(dialect)
    dialect.finish([ending(job, **again(place="none", delay=90.0))])
    row = Job.objects.scheduled().get()
    assert abs(row.run_after - database_now() - timedelta(seconds=90)) < timedelta(seconds=5)
    assert row.finished_at is None


def test_finish_schedules_a_job_for_a_given_time(dialect):
    (job,) = claimed(dialect)
    dialect.finish([ending(job, **again(place="none", run_after="2040-01-02T05:04:05.678000+02:00"))])
    assert Job.objects.scheduled().get().run_after == datetime(2040, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def test_finish_sets_a_job_apart_that_was_lost(dialect):
    (job,) = claimed(dialect)
    place = Job.objects.get().place
    dialect.finish([ending(job, **again(place="isolate", counted=False, lost=True, outcome="lost"))])
    row = Job.objects.get()
    assert (row.status, row.place, row.attempts, row.tries, row.losses) == ("READY", -place, 1, 0, 1)
    (job,) = dialect.claim([DEFAULT], 1, WORKER, FENCE, isolated=True)
    dialect.finish([ending(job, **again(place="isolate", counted=False, lost=True, outcome="lost"))])
    assert Job.objects.get().place == -place


def test_finish_moves_a_job_to_another_lane(dialect):
    (job,) = claimed(dialect)
    dialect.finish([ending(job, **again(place="next", queue_name="slow", priority=-7))])
    assert dialect.lanes() == [("slow", -7)]


def test_g13_a_job_that_was_asked_to_stop_is_not_tried_again(dialect):
    retried, lost, done, failed = claimed(dialect, 4)
    Job.objects.update(cancel_requested_at=Now())
    written = dialect.finish(
        [
            ending(retried, **again(place="none", delay=5.0)),
            ending(lost, **again(place="isolate", lost=True, counted=False, outcome="lost")),
            ending(done),
            ending(failed, status="FAILED", outcome="failed"),
        ]
    )
    statuses = {retried.pk: "CANCELLED", lost.pk: "CANCELLED", done.pk: "SUCCESSFUL", failed.pk: "FAILED"}
    assert written == statuses == dict(Job.objects.values_list("pk", "status"))
    assert not Job.objects.filter(finished_at=None).exists()
    assert dict(Attempt.objects.values_list("job_id", "outcome")) == {
        retried.pk: "cancelled", lost.pk: "cancelled", done.pk: "succeeded", failed.pk: "failed"
    }  # fmt: skip


def test_finish_keeps_long_texts(dialect):
    (job,) = claimed(dialect)
    text = "x" * 63_000 + "ä☃"
    dialect.finish([ending(job, message="m" * 500, exception_class_path="e" * 255, traceback=text)])
    attempt = Attempt.objects.get()
    assert (attempt.message, attempt.exception_class_path, attempt.traceback) == ("m" * 500, "e" * 255, text)


# -- release


def test_release_gives_a_job_back_as_if_it_had_not_been_claimed(dialect):
    before = list(Job.objects.filter(pk__in=pks(make(3))).order_by("pk").values())
    jobs = dialect.claim([DEFAULT], 3, WORKER, FENCE)
    assert dialect.release([Release(job.pk, FENCE) for job in jobs]) == 3
    assert list(Job.objects.order_by("pk").values()) == before
    assert not Attempt.objects.exists()


def test_release_for_later(dialect):
    now_job, later = claimed(dialect, 2)
    assert dialect.release([Release(now_job.pk, FENCE), Release(later.pk, FENCE, 60.0)]) == 2
    assert pks(Job.objects.in_line()) == [now_job.pk]
    row = Job.objects.scheduled().get()
    assert row.pk == later.pk and row.attempts == 0
    assert abs(row.run_after - database_now() - timedelta(seconds=60)) < timedelta(seconds=5)


def test_g4_release_needs_the_fence(dialect):
    (job,) = claimed(dialect)
    before = Job.objects.values().get()
    assert dialect.release([Release(job.pk, FENCE + 1)]) == 0
    assert Job.objects.values().get() == before


def test_g13_release_of_a_job_that_was_asked_to_stop_cancels_it(dialect):
    (job,) = claimed(dialect)
    Job.objects.update(cancel_requested_at=Now())
    dialect.release([Release(job.pk, FENCE)])
    row = Job.objects.get()
    assert (row.status, row.fence, row.worker_id) == ("CANCELLED", None, None)
    assert row.finished_at is not None


# -- transactions


def test_a_collision_is_tried_again_and_anything_else_is_not(dialect, monkeypatch):
    from django.db import DatabaseError

    def collide():
        calls.append(1)
        if len(calls) < 3:
            raise DatabaseError("collision")
        return "written"

    calls: list[int] = []
    monkeypatch.setattr(dialect, "is_collision", lambda error: str(error) == "collision")
    assert dialect.transact(collide) == "written"
    assert len(calls) == 3

    def break_down():
        calls.append(1)
        raise DatabaseError("something else")

    calls.clear()
    with pytest.raises(DatabaseError, match="something else"):
        dialect.transact(break_down)
    assert len(calls) == 1


def test_a_collision_within_the_callers_transaction_is_the_callers(dialect, monkeypatch):
    from django.db import DatabaseError

    calls = []

    def collide():
        calls.append(1)
        raise DatabaseError("collision")

    monkeypatch.setattr(dialect, "is_collision", lambda error: True)
    with pytest.raises(DatabaseError), transaction.atomic():
        dialect.transact(collide)
    assert len(calls) == 1


# -- succeed: what most attempts come to ----------------------------------------------------------


def success(job: Job, *, fence=FENCE, waited=0.0, took=0.0, result=None) -> Success:
    return Success(job.pk, fence, WORKER, job.attempts, job.started_at, waited, took, result)


def test_what_went_well_is_written_as_finish_would_write_it(dialect):
    one, two = claimed(dialect, 2)
    assert dialect.succeed([success(two, waited=1.5, took=4.0, result='{"a": [1, "\\u00e4"]}')]) == {two.pk}
    assert dialect.finish([ending(one, waited=1.5, took=4.0, result={"a": [1, "ä"]})]) == {one.pk: "SUCCESSFUL"}
    plain = {"id", "place", "finished_at", "started_at"}
    one_row, two_row = (Job.objects.filter(pk=job.pk).values().get() for job in (one, two))
    assert {name: value for name, value in one_row.items() if name not in plain} == {
        name: value for name, value in two_row.items() if name not in plain
    }
    assert two_row["result"] == {"a": [1, "ä"]} and two_row["finished_at"] is not None
    first, second = (Attempt.objects.filter(job_id=job.pk).values().get() for job in (one, two))
    assert second["finished_at"] - second["started_at"] == timedelta(seconds=2.5)
    assert (second["number"], second["outcome"], second["worker_id"]) == (1, "succeeded", WORKER)
    for name in ("outcome", "message", "traceback", "exception_class_path", "number", "worker_id"):
        assert first[name] == second[name]


def test_times_are_those_of_the_database_and_not_of_this_process(dialect):
    (job,) = claimed(dialect)
    dialect.succeed([success(job, waited=2.0, took=3.0)])
    row, attempt = Job.objects.get(pk=job.pk), Attempt.objects.get(job_id=job.pk)
    assert abs(row.started_at - job.started_at - timedelta(seconds=2)) < timedelta(milliseconds=2)
    assert attempt.started_at == row.started_at
    assert abs(attempt.finished_at - attempt.started_at - timedelta(seconds=1)) < timedelta(milliseconds=2)


def test_g4_a_success_of_a_lost_attempt_writes_nothing_and_holds_up_no_other(dialect):
    jobs = claimed(dialect, 5)
    lost, again = jobs[1], jobs[3]
    Job.objects.filter(pk=lost.pk).update(status="READY", fence=None, worker=None)
    Job.objects.filter(pk=again.pk).update(fence=FENCE + 1, attempts=2)
    written = dialect.succeed([success(job, result="[1]") for job in jobs])
    assert written == set(pks(jobs)) - {lost.pk, again.pk}
    assert Job.objects.get(pk=lost.pk).status == "READY" and Job.objects.get(pk=again.pk).fence == FENCE + 1
    assert set(Attempt.objects.values_list("job_id", flat=True)) == written
    assert all(row.result == [1] for row in Job.objects.filter(pk__in=written))


def test_g13_what_succeeds_before_it_hears_of_the_cancel_has_succeeded(dialect):
    (job,) = claimed(dialect)
    Job.objects.filter(pk=job.pk).update(cancel_requested_at=Now())
    assert dialect.succeed([success(job)]) == {job.pk}
    assert Job.objects.get().status == "SUCCESSFUL"


def test_hundreds_of_successes_are_written_at_once(dialect):
    jobs = claimed(dialect, 300)
    results = ["{}", "null", '"a\\"b\\\\c,{}\'%s"', None]
    written = dialect.succeed([success(job, result=results[job.pk % 4]) for job in reversed(jobs)])
    assert written == set(pks(jobs))
    assert Job.objects.filter(status="SUCCESSFUL", fence=None, worker=None).count() == 300
    assert Attempt.objects.count() == 300
    for job in Job.objects.filter(pk__in=pks(jobs)[:8]):
        assert job.result == [{}, None, "a\"b\\c,{}'%s", None][job.pk % 4]


# -- peek and floors ------------------------------------------------------------------------------


def test_a_peek_tells_what_an_idle_worker_has_to_know(dialect):
    assert dialect.peek() == (False, None, False, False, False)
    make(place=None, run_after=datetime.now(UTC) + timedelta(seconds=60))
    make(place=None, run_after=datetime.now(UTC) + timedelta(seconds=600))
    in_line, due_in, *_ = dialect.peek()
    assert not in_line and 50 < due_in <= 61
    make()
    Job.objects.scheduled().update(run_after=Now() - timedelta(seconds=5))
    in_line, due_in, *_ = dialect.peek()
    assert in_line and -10 < due_in < -4.9
    dialect.claim([DEFAULT], 1, WORKER, FENCE)
    assert dialect.peek()[0] is False
    pause(key="tenant-7")
    assert dialect.peek().paused is False, "that is no business of a claim"
    pause(task="tests.tasks.noop")
    assert dialect.peek().paused is True


def test_the_next_place_is_behind_all_others(dialect):
    make(3)
    tick()
    place = dialect.next_place()
    assert place > max(Job.objects.values_list("place", flat=True))
    tick()
    make()
    assert Job.objects.latest("pk").place > place


def test_a_claim_begins_at_the_floor(dialect):
    jobs = make(6)
    places = dict(Job.objects.values_list("pk", "place"))
    Job.objects.filter(pk=jobs[0].pk).update(place=1)
    floor = places[jobs[2].pk]
    found = dialect.claim([DEFAULT], 10, WORKER, FENCE, floors=[floor])
    below = [job.pk for job in jobs if job.pk == jobs[0].pk or places[job.pk] < floor]
    assert sorted(pks(found)) == sorted(set(pks(jobs)) - set(below))
    assert sorted(pks(dialect.claim([DEFAULT], 10, WORKER, FENCE))) == sorted(below)


# -- a worker's own connections -------------------------------------------------------------------

postgresql_only = pytest.mark.skipif(connection.vendor != "postgresql", reason="nothing is prepared there")


@pytest.fixture
def direct(dialect, monkeypatch):
    monkeypatch.setattr(dialect, "direct", True)


@postgresql_only
def test_a_workers_session_keeps_the_plans_of_its_statements(dialect, direct):
    make(3)
    with dialect.session():
        for _ in range(3):
            dialect.claim([DEFAULT], 1, WORKER, FENCE)
        assert len(prepared()) == 1
    assert len(prepared()) == 0, "the session's connection has been closed"


@postgresql_only
def test_a_worker_admits_through_a_pooler_that_turns_up_meanwhile(dialect, direct):
    rules = {"tests.tasks.noop": Slots(1)}

    def admit_one():
        make(1)
        Job.objects.filter(status="READY").update(status="WAITING", concurrency_key="crew")
        found = dialect.admit(["crew"], rules, [], {})
        return found.lanes, Job.objects.filter(status="READY").delete()[0]

    with dialect.session():
        assert admit_one() == admit_one() == ({DEFAULT}, 1)
        before = len(prepared())
        assert before >= 2
        connection.connection.pgconn.exec_(b"DEALLOCATE ALL")  # as if this were another session of the server
        assert admit_one() == ({DEFAULT}, 1)
        assert not dialect.direct and len(prepared()) == 0
        assert connection.get_autocommit() and not connection.connection.info.transaction_status


@postgresql_only
def test_nothing_is_prepared_behind_a_pooler_or_on_other_peoples_connections(dialect, monkeypatch):
    make(3)
    monkeypatch.setattr(dialect, "direct", False)
    with dialect.session():
        dialect.claim([DEFAULT], 1, WORKER, FENCE)
        assert len(prepared()) == 0
    monkeypatch.setattr(dialect, "direct", True)
    dialect.claim([DEFAULT], 1, WORKER, FENCE)
    assert len(prepared()) == 0
    monkeypatch.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
    with dialect.session():
        dialect.claim([DEFAULT], 1, WORKER, FENCE)
        assert len(prepared()) == 0


@postgresql_only
def test_a_prepared_statement_that_a_pooler_has_lost_is_sent_anew(dialect, direct):
    make(2)
    with dialect.session():
        dialect.claim([DEFAULT], 1, WORKER, FENCE)
        connection.connection.pgconn.exec_(b"DEALLOCATE ALL")  # as if this were another session of the server
        assert len(dialect.claim([DEFAULT], 1, WORKER, FENCE)) == 1
        assert not dialect.direct, "and nothing is prepared any more"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="a file has no sessions to end")
def test_g2_a_stalled_process_does_not_keep_the_rows_that_it_has_locked(dialect, direct, monkeypatch):
    if connection.vendor == "mysql" and not connection.mysql_is_mariadb:
        pytest.skip("MySQL has no limit for idle transactions")
    monkeypatch.setattr(type(dialect), "idle_in_transaction", 1)
    make()
    locked, end, errors = threading.Event(), threading.Event(), []

    def stall():
        list(Job.objects.select_for_update())
        locked.set()
        end.wait(30)
        list(Job.objects.all())

    def work():
        with dialect.session():
            try:
                dialect.transact(stall)
            except DatabaseError as error:
                errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert locked.wait(10)
    Job.objects.update(priority=5)  # waits for the lock
    assert thread.is_alive(), "the lock was given up while its holder stood still"
    end.set()
    thread.join(10)
    assert len(errors) == 1, "and the holder learns that its transaction is gone"


def test_g9_large_results_do_not_stop_a_batch(dialect):
    jobs = claimed(dialect, 30)
    text = json.dumps("x" * 1_500_000)
    assert dialect.succeed([success(job, result=text) for job in jobs]) == set(pks(jobs))
    assert {len(result) for result in Job.objects.values_list("result", flat=True)} == {1_500_000}


@pytest.mark.skipif(connection.vendor != "mysql", reason="the others have no such limit")
def test_g9_a_result_that_the_server_would_hang_up_on_is_refused(dialect):
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@max_allowed_packet")
        ((limit,),) = cursor.fetchall()
    (job,) = claimed(dialect)
    with pytest.raises(DatabaseError) as caught:
        dialect.succeed([success(job, result=json.dumps("x" * limit))])
    assert dialect.is_refusal(caught.value)


@pytest.mark.skipif(connection.vendor != "mysql", reason="the others have no such codes")
@pytest.mark.parametrize(
    "value", ["'\U0001f600'", "_utf8mb4'a' collate utf8mb4_bin = _utf8mb4'b' collate utf8mb4_general_ci"]
)
def test_g9_a_value_that_can_never_be_written_is_no_outage_through_either_driver(dialect, value):
    """mysqlclient says OperationalError to both, as it does to a server that is gone."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE narrow (word VARCHAR(5) CHARACTER SET utf8mb3)")
        with pytest.raises(DatabaseError) as caught:
            cursor.execute(f"INSERT INTO narrow VALUES ({value})")
        cursor.execute("DROP TEMPORARY TABLE narrow")
    assert dialect.is_refusal(caught.value)


@pytest.mark.parametrize("number", [3, 60])
def test_the_place_of_a_job_is_known_after_a_bulk_too(dialect, number):
    jobs = make(number)
    assert [job.place for job in jobs] == list(Job.objects.order_by("pk").values_list("place", flat=True))
    before = jobs[0].place
    jobs[0].save()
    assert Job.objects.get(pk=jobs[0].pk).place == before


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the others draw numbers from a sequence of their own")
def test_the_first_jobs_of_a_database_cost_as_few_statements_as_others(dialect, django_assert_max_num_queries):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sqlite_sequence WHERE name = %s", [Job._meta.db_table])
    with django_assert_max_num_queries(10):
        jobs = [*make(100), *make(3)]
    assert [job.pk for job in jobs] == list(range(1, 104))
    assert make(1)[0].pk == 104
