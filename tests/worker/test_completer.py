"""Completer: outcomes are written in batches, and none is lost on the way."""

import threading
import time
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from django_jobqueue.lifecycle import release
from django_jobqueue.models import Job
from django_jobqueue.worker import completer as module
from django_jobqueue.worker.completer import Completer, human
from django_jobqueue.worker.pace import Pace

from ..lifecycle.steps import (
    USING,
    failed,
    fresh,
    outcomes,
    retrying,
    run_of,
    started,
    succeeded,
    take_one,
    worker,
)

pytestmark = pytest.mark.django_db(transaction=True)


class Desk:
    """A completer with its surroundings."""

    def __init__(self):
        self.batches, self.faults, self.refused = [], [], []
        executor = SimpleNamespace(slots=1, load=0)
        self.paces = {False: Pace(executor), True: Pace(executor)}
        self.completer = Completer(
            USING,
            busy=lambda: False,
            written=self.batches.append,
            refused=self.refused.append,
            fault=lambda: self.faults.append(1),
            paces=self.paces,
        )

    def write(self, *runs, **close):
        """Put the runs in before it starts, so that they are one batch; until it has ended."""
        for run in runs:
            self.completer.put(run)
        self.completer.close(**close)
        self.completer.start()
        self.completer.join(20)
        assert not self.completer.is_alive()

    @property
    def written(self):
        return [(run.job.pk, status) for batch in self.batches for run, status in batch]


@pytest.fixture
def desk():
    return Desk()


def test_outcomes_are_written_and_told(desk):
    one, two, three = started(), started(), started()
    desk.write(run_of(one, succeeded(1)), run_of(two, failed()), run_of(three, retrying(60)))
    assert desk.written == [(one.pk, "SUCCESSFUL"), (two.pk, "FAILED"), (three.pk, "READY")]
    assert [fresh(job).status for job in (one, two, three)] == ["SUCCESSFUL", "FAILED", "READY"]
    assert desk.completer.counts == {"succeeded": 1, "failed": 1, "retrying": 1}
    assert desk.completer.unwritten == 0 and desk.faults == []


def test_what_comes_together_is_written_together(desk):
    desk.write(*(run_of(started(), succeeded()) for _ in range(5)))
    assert [len(batch) for batch in desk.batches] == [5]


def test_a_single_outcome_does_not_wait_for_company(desk, eventually):
    job = started()
    desk.completer.start()
    desk.completer.put(run_of(job, succeeded()))
    eventually(lambda: desk.written, within=5)
    desk.completer.close()
    desk.completer.join(10)


def test_g4_an_outcome_that_came_too_late_is_told_as_lost(desk, caplog):
    job, good = started(), started()
    release([job], USING)
    desk.write(run_of(job, succeeded()), run_of(good, succeeded()))
    assert desk.written == [(job.pk, None), (good.pk, "SUCCESSFUL")]
    assert desk.completer.counts == {"lost": 1, "succeeded": 1}
    assert "was not written" in caplog.text


def test_g9_an_unstorable_outcome_does_not_hold_up_the_others(desk):
    bad, good = started(), started()
    desk.write(run_of(bad, succeeded(object())), run_of(good, succeeded()))
    assert dict(desk.written) == {bad.pk: "FAILED", good.pk: "SUCCESSFUL"}
    assert desk.completer.counts == {"failed": 1, "succeeded": 1}


def away(monkeypatch, times):
    """Let the database be away for so many writes."""
    finish, tries = module.finish, []

    def flaky(runs, using):
        tries.append(len(runs))
        if len(tries) <= times:
            raise OperationalError("the server has gone")
        return finish(runs, using)

    monkeypatch.setattr(module, "finish", flaky)
    return tries


def test_g2_outcomes_wait_for_a_database_that_is_away(desk, monkeypatch, eventually):
    tries = away(monkeypatch, 2)
    job = started()
    desk.write(run_of(job, succeeded(1)))
    assert len(tries) == 3
    assert desk.written == [(job.pk, "SUCCESSFUL")] and fresh(job).result == 1


def test_while_the_database_is_away_the_unwritten_are_counted(desk, monkeypatch, eventually):
    away(monkeypatch, 10**9)
    desk.completer.start()
    for _ in range(3):
        desk.completer.put(run_of(started(), succeeded()))
    eventually(lambda: desk.completer.unwritten == 3)
    desk.completer.close(give_up=True)
    desk.completer.join(10)
    assert not desk.completer.is_alive()


def test_a_worker_that_must_end_does_not_wait_for_the_database(desk, monkeypatch):
    away(monkeypatch, 10**9)
    job = started()
    began = time.monotonic()
    desk.write(run_of(job, succeeded()), give_up=True)
    assert time.monotonic() - began < 5
    assert fresh(job).status == Job.Status.RUNNING, "the lease will tell"


def test_a_completer_that_cannot_go_on_ends_the_worker(desk, monkeypatch, caplog):
    def broken(runs, using):
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(module, "finish", broken)
    desk.write(run_of(started(), succeeded()))
    assert desk.faults == [1]
    assert "cannot be written" in caplog.text


def test_it_learns_how_long_jobs_take(desk):
    assert desk.paces[False].mean is None
    coroutine = run_of(started(), succeeded(), took=9.0)
    coroutine.is_async = True
    desk.write(run_of(started(), succeeded(), took=2.0), run_of(started(), succeeded(), took=4.0), coroutine)
    assert desk.paces[False].mean == pytest.approx(3.0, abs=0.01)
    assert desk.paces[True].mean == pytest.approx(9.0, abs=0.01)


def test_failures_are_told_to_the_operator(desk, caplog):
    caplog.set_level("INFO", "django_jobqueue")
    bad, again = started(), started()
    desk.write(run_of(bad, failed(ValueError("no such order"))), run_of(again, retrying(90)))
    assert f"{bad} failed" in caplog.text and "ValueError: no such order" in caplog.text
    assert "next attempt in 1 min 30 s" in caplog.text


def test_its_thread_ends_and_is_a_daemon(desk):
    assert desk.completer.daemon
    desk.write()
    assert desk.completer not in threading.enumerate()
    assert outcomes(started()) == []


@pytest.mark.django_db(transaction=False)
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 ms"), (0.0124, "12 ms"), (0.9999, "1.0 s"), (3.44, "3.4 s"), (59.9, "59.9 s"), (59.99, "1 min")],
        *[(302, "5 min 2 s"), (3599.9, "1 h"), (7384, "2 h 3 min"), (604_800, "7 d"), (129_600, "1 d 12 h")],
    ],
)
def test_durations_as_people_write_them(seconds, text):
    assert human(seconds) == text


def test_g4_two_claims_of_one_job_in_one_batch_are_told_apart(desk):
    """As after an outage: it was lost, and claimed again by the same process under its new number."""
    old = started()
    lost = run_of(old, succeeded("old"))
    Job.objects.filter(pk=old.pk).update(status="READY", fence=None, worker=None)
    new = take_one(worker())
    assert new.pk == old.pk
    desk.write(lost, run_of(new, succeeded("new")))
    assert (fresh(new).status, fresh(new).result) == ("SUCCESSFUL", "new")
    assert [(run.outcome.result, status) for run, status in desk.batches[0]] == [("old", None), ("new", "SUCCESSFUL")]
