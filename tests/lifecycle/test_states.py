"""Whatever happens in whatever order, the rows stay sensible."""

import pytest
from django.db import transaction
from django.db.models.functions import Now
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from django_jobqueue.conf import LOSSES_TO_FAIL
from django_jobqueue.lifecycle import (
    QueueSelector,
    cancel,
    claim,
    finish,
    lanes_in_order,
    promote,
    reap,
    release,
    renew,
    retry,
    run_now,
)
from django_jobqueue.models import Attempt, Job

from ..tasks import noop
from .steps import USING, failed, fall_silent, interrupted, retrying, run_of, snoozed, succeeded, worker

MAX_JOBS = 4


class Lives(RuleBasedStateMachine):
    """Two workers and a few jobs. Workers forget nothing: they try to write outcomes of jobs they have lost, too."""

    def __init__(self):
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.workers = [worker(), worker()]
        self.held = []  # every claim ever made; most of them are stale
        self.final: dict[int, str] = {}  # as of the step before
        self.numbers = 0

    def teardown(self):
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    # -- what may happen --------------------------------------------------------------------------

    @precondition(lambda self: self.numbers < MAX_JOBS)
    @rule(max_attempts=st.integers(1, 3), scheduled=st.booleans())
    def enqueue(self, max_attempts, scheduled):
        result = noop.using(max_attempts=max_attempts).enqueue()
        if scheduled:
            Job.objects.filter(pk=result.id).update(place=None, run_after=Now())
        self.numbers += 1

    @rule(which=st.integers(0, 1), limit=st.integers(1, 3), isolated=st.booleans())
    def claim(self, which, limit, isolated):
        lanes = lanes_in_order(QueueSelector(), USING)
        jobs = claim(lanes, limit, self.workers[which].pk, USING, isolated=isolated)
        for job in jobs:
            assert job.pk not in self.final
            assert job.tries <= job.max_attempts, "no more attempts than it may have"
        self.held += jobs

    def outcome(self, kind, job):
        if kind == "fail" and job.tries < job.max_attempts:
            return retrying()
        return {
            "succeed": succeeded(job.attempts),
            "fail": failed(),
            "snooze": snoozed(),
            "interrupt": interrupted(),
        }[kind]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kind=st.sampled_from(["succeed", "fail", "fail", "snooze", "interrupt"]))
    def finish(self, data, kind):
        job = data.draw(st.sampled_from(self.held))
        row = Job.objects.get(pk=job.pk)
        written = finish([run_of(job, self.outcome(kind, job))], USING)
        assert bool(written) == (row.fence == job.fence), "written if and only if the job is still ours"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        job = data.draw(st.sampled_from(self.held))
        row = Job.objects.get(pk=job.pk)
        assert release([job], USING) == (row.fence == job.fence)

    @rule(which=st.integers(0, 1))
    def lose_a_worker(self, which):
        fall_silent(self.workers[which])
        reap(USING)
        assert not renew(self.workers[which].pk, USING, lease=30)
        self.workers[which] = worker()

    @rule()
    def reap(self):
        assert reap(USING) == [], "both workers are alive"

    @rule()
    def promote(self):
        promote(USING)

    @rule(data=st.data())
    def run_now(self, data):
        run_now(self.some(data))

    @rule(data=st.data())
    def cancel(self, data):
        cancel(self.some(data))

    @rule(data=st.data())
    def retry(self, data):
        ids = self.some(data)
        again = [pk for pk in ids if self.final.get(pk) in ("FAILED", "CANCELLED")]
        assert retry(ids) == len(again)
        for pk in again:
            del self.final[pk]

    def some(self, data):
        ids = list(Job.objects.order_by("pk").values_list("pk", flat=True))
        return data.draw(st.lists(st.sampled_from(ids), unique=True, max_size=2)) if ids else []

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def the_rows_are_sensible(self):
        numbers = {}
        for pk, number in Attempt.objects.order_by("number").values_list("job_id", "number"):
            numbers.setdefault(pk, []).append(number)
        alive = {row.pk for row in self.workers}
        finished = {}
        for job in Job.objects.all():
            running = job.status == Job.Status.RUNNING
            assert running == (job.fence is not None) == (job.worker_id is not None)
            if running:
                assert job.worker_id in alive
                claims = [held for held in self.held if held.pk == job.pk and held.fence == job.fence]
                assert len(claims) == 1, "a fence belongs to one claim"
            assert numbers.get(job.pk, []) == list(range(1, job.attempts - running + 1)), "no gap, none twice"
            assert job.tries <= min(job.max_attempts, job.attempts)
            assert job.losses <= LOSSES_TO_FAIL
            assert job.is_finished == (job.finished_at is not None)
            if job.is_finished:
                finished[job.pk] = job.status
        for pk, status in self.final.items():
            assert finished.get(pk) == status, "final is final"
        self.final = finished


@pytest.mark.django_db
def test_whatever_happens_the_rows_stay_sensible():
    run_state_machine_as_test(
        Lives,
        settings=settings(max_examples=20, stateful_step_count=20, deadline=None, database=None, print_blob=True),
    )
