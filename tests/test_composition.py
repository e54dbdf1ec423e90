"""Chains and groups, from the call to the last result."""

from __future__ import annotations

import pytest
from django.db import transaction

from django_jobqueue import chain, enqueue_beside, group
from django_jobqueue.compat import InvalidTask, TaskResultStatus
from django_jobqueue.composition import Layout
from django_jobqueue.lifecycle import follow_up, retry
from django_jobqueue.models import Attempt, Batch, Dependency, Job
from django_jobqueue.registry import resolve

from . import batch_tasks as tasks
from .lifecycle import steps
from .worker.workers import drain

pytestmark = pytest.mark.django_db(transaction=True)


def statuses(enqueued) -> list[str]:
    found = dict(Job.objects.values_list("pk", "status"))
    return [found[int(result.id)] for result in enqueued]


def value(result):
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL, result.errors
    return result.return_value


# -- chains ---------------------------------------------------------------------------------------


def test_a_chain_hands_on_results():
    enqueued = chain(tasks.one.s(), tasks.add.s(2), tasks.add.s(more=10)).enqueue()
    assert statuses(enqueued) == ["READY", "WAITING", "WAITING"]
    drain()
    assert [value(result) for result in enqueued] == [1, 3, 13]
    assert statuses(enqueued) == ["SUCCESSFUL"] * 3
    assert not Job.objects.filter(has_dependents=True).exists()


def test_a_chain_mixes_sync_and_async_tasks():
    enqueued = chain(tasks.one.s(), tasks.aadd.s(2), tasks.add.s(3), tasks.aadd.s(4)).enqueue()
    drain()
    assert value(enqueued[-1]) == 10


def test_si_takes_no_result():
    enqueued = chain(tasks.one.s(), tasks.show.si("a", b="c")).enqueue()
    drain()
    assert value(enqueued[-1]) == [["a"], {"b": "c"}]


def test_a_call_without_room_for_the_result_is_refused_at_once():
    with pytest.raises(InvalidTask, match=r"batch_tasks\.nothing cannot take the result .* Write \.si"):
        chain(tasks.one.s(), tasks.nothing.s()).enqueue()
    assert not Job.objects.exists()
    assert not Batch.objects.exists()


def test_the_rest_of_a_chain_is_cancelled_when_a_step_fails():
    enqueued = chain(tasks.one.s(), tasks.fails.s(), tasks.add.s(), tasks.add.s()).enqueue()
    drain()
    assert statuses(enqueued) == ["SUCCESSFUL", "FAILED", "CANCELLED", "CANCELLED"]
    [attempt] = Attempt.objects.filter(job_id=enqueued[2].id)
    assert attempt.outcome == "skipped"
    assert attempt.message == f"Job #{enqueued[1].id}, which it waited for, has failed."
    enqueued[2].refresh()
    assert enqueued[2].status == TaskResultStatus.FAILED
    assert enqueued[2].started_at is None
    assert enqueued[2].worker_ids == []


@pytest.mark.parametrize(("if_failed", "status"), [("cancel", "CANCELLED"), ("fail", "FAILED"), ("run", "SUCCESSFUL")])
def test_what_becomes_of_the_rest_can_be_said(if_failed, status):
    enqueued = chain(tasks.fails.s()).then(tasks.show.s(), if_failed=if_failed).enqueue()
    drain()
    assert statuses(enqueued) == ["FAILED", status]
    enqueued[1].refresh()
    if if_failed == "run":
        assert enqueued[1].return_value == [[None], {}]
    if if_failed == "fail":
        assert enqueued[1].errors[0].exception_class_path == "django_jobqueue.exceptions.DependencyFailed"


def test_a_step_is_retried_before_the_next_one_starts():
    flaky = tasks.fails.using(max_attempts=2)
    enqueued = chain(flaky.s(), tasks.show.s()).enqueue()
    drain()
    assert statuses(enqueued) == ["FAILED", "CANCELLED"]


# -- groups ---------------------------------------------------------------------------------------


def test_a_group_hands_on_the_list_of_its_results_in_their_order():
    enqueued = group(*(tasks.add.s(number) for number in range(20))).then(tasks.total.s()).enqueue()
    drain()
    assert value(enqueued[-1]) == sum(range(1, 21))
    last = Job.objects.get(pk=enqueued[-1].id)
    assert last.args == [list(range(1, 21))]


def test_a_group_of_one_hands_on_a_list_too():
    enqueued = chain(group(tasks.one.s()), tasks.show.s()).enqueue()
    drain()
    assert value(enqueued[-1]) == [[[1]], {}]


def test_what_comes_behind_a_group_waits_for_all_of_it():
    enqueued = group(tasks.one.s(), tasks.one.s(), tasks.one.s()).then(tasks.total.s()).enqueue()
    drain(max_jobs=2)
    assert statuses(enqueued) == ["SUCCESSFUL", "SUCCESSFUL", "READY", "WAITING"]
    assert Job.objects.get(pk=enqueued[-1].id).waiting_for == 1
    drain()
    assert statuses(enqueued) == ["SUCCESSFUL"] * 4


def test_a_diamond():
    enqueued = chain(tasks.one.s(), group(tasks.add.s(10), tasks.add.s(20)), tasks.total.s()).enqueue()
    drain()
    assert value(enqueued[-1]) == 11 + 21


def test_a_group_behind_a_group_gets_the_list_in_each_of_its_calls():
    enqueued = chain(
        group(tasks.one.s(), tasks.one.s()), group(tasks.total.s(), tasks.total.s()), tasks.show.s()
    ).enqueue()
    drain()
    assert value(enqueued[-1]) == [[[2, 2]], {}]


def test_chains_in_a_group():
    enqueued = group(chain(tasks.one.s(), tasks.add.s(1)), chain(tasks.one.s(), tasks.add.s(2))).then(tasks.total.s())
    enqueued = enqueued.enqueue()
    drain()
    assert value(enqueued[-1]) == 2 + 3


def test_the_end_of_a_group_is_cancelled_as_soon_as_one_has_failed():
    enqueued = group(tasks.fails.s(), tasks.one.s(), tasks.one.s()).then(tasks.total.s()).enqueue()
    drain(max_jobs=1)
    drain(max_jobs=1)  # its start, if not the end of the one before, has told
    assert statuses(enqueued)[-1] == "CANCELLED"


def test_what_is_for_the_failure_runs_only_then():
    def made(first):
        return group(first, tasks.one.s()).on_failure(tasks.show.s("failed")).finally_(tasks.show.s("over"))

    well, badly = made(tasks.one.s()).enqueue(), made(tasks.fails.s()).enqueue()
    drain()
    assert statuses(well) == ["SUCCESSFUL", "SUCCESSFUL", "CANCELLED", "SUCCESSFUL"]
    assert statuses(badly) == ["FAILED", "SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL"]
    assert value(badly[2]) == [["failed"], {}]
    assert value(badly[3]) == [["over"], {}]


def test_many_wait_for_one_and_one_for_many():
    many = group(*(tasks.add.s(number) for number in range(1500)))
    enqueued = chain(tasks.one.s(), many, tasks.total.s()).enqueue()
    assert len(enqueued) == 1502
    drain(threads=4)
    assert value(enqueued[-1]) == sum(range(1, 1501))


# -- after ----------------------------------------------------------------------------------------


def test_a_job_waits_for_jobs_that_were_there_before():
    first, second = tasks.one.enqueue(), tasks.one.enqueue()
    third = tasks.show.using(after=[first, second]).enqueue("x")
    assert statuses([third]) == ["WAITING"]
    drain()
    assert value(third) == [["x"], {}]
    last = Job.objects.get(pk=third.id)
    assert last.started_at >= max(
        Job.objects.filter(pk__in=[first.id, second.id]).values_list("finished_at", flat=True)
    )


def test_a_job_after_one_that_has_ended_starts_at_once():
    first = tasks.one.enqueue()
    drain()
    second = tasks.show.using(after=first).enqueue()
    assert statuses([second]) == ["READY"]


def test_a_job_after_one_that_has_failed_is_cancelled():
    first = tasks.fails.enqueue()
    drain()
    second = tasks.show.using(after=first).enqueue()
    third = tasks.show.using(after=first, if_failed="run").enqueue()
    assert statuses([second, third]) == ["CANCELLED", "READY"]


def test_after_a_commit_only():
    first = tasks.one.enqueue()
    with transaction.atomic():
        second = tasks.show.using(after=first).enqueue()
        drained = Job.objects.get(pk=first.id)
        assert not drained.has_dependents  # locked by nobody: a worker may finish it meanwhile
    assert Job.objects.get(pk=first.id).has_dependents
    drain()
    assert statuses([second]) == ["SUCCESSFUL"]


@pytest.mark.parametrize("nonsense", [object(), 1.5, "x", True, [None]])
def test_nonsense_cannot_be_waited_for(nonsense):
    with pytest.raises((TypeError, ValueError), match="after"):
        tasks.one.using(after=nonsense)


def test_who_is_not_there_cannot_be_waited_for():
    with pytest.raises(ValueError, match=r"there is no job #4711 in the database 'default'"):
        tasks.one.using(after=4711).enqueue()
    assert not Job.objects.exists()


def test_if_failed_is_checked():
    with pytest.raises(InvalidTask, match="if_failed must be one of"):
        tasks.one.using(if_failed="explode")
    with pytest.raises(ValueError, match="if_failed must be one of"):
        chain(tasks.one.s()).then(tasks.one.s(), if_failed="explode")


# -- batches that grow ----------------------------------------------------------------------------


def test_what_waits_for_a_job_waits_for_what_it_enqueues_beside_itself():
    enqueued = group(tasks.splits.s(), tasks.one.s()).then(tasks.show.s()).enqueue()
    drain()
    assert Job.objects.count() == 5
    assert Job.objects.filter(batch_id=enqueued.batch_id).count() == 5
    assert value(enqueued[-1]) == [[["split", 1, 11, 21]], {}]


def test_beside_what_has_ended_it_is_too_late():
    enqueued = group(tasks.one.s()).then(tasks.show.s()).enqueue()
    enqueue_beside([tasks.one.s()], enqueued[0])
    drain()
    assert value(enqueued[-1]) == [[[1, 1]], {}]
    with pytest.raises(ValueError, match="has ended"):
        enqueue_beside([tasks.one.s()], enqueued[0])
    assert Job.objects.count() == 3


def test_outside_of_a_job_it_must_be_said_beside_which():
    with pytest.raises(LookupError, match="say beside which"):
        enqueue_beside([tasks.one.s()])


# -- as a whole or not at all ---------------------------------------------------------------------


def test_g1_a_rolled_back_chain_leaves_nothing():
    with pytest.raises(RuntimeError), transaction.atomic():
        chain(tasks.one.s(), tasks.add.s()).enqueue()
        raise RuntimeError
    assert not Job.objects.exists()
    assert not Batch.objects.exists()
    assert not Dependency.objects.exists()


def test_one_bad_argument_and_nothing_is_enqueued():
    with pytest.raises(TypeError):
        chain(tasks.one.s(), tasks.add.s(object())).enqueue()
    assert not Job.objects.exists()


def test_what_is_no_call_is_refused():
    with pytest.raises(TypeError, match=r"chain takes task\.s"):
        chain(tasks.one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one call"):
        chain()


def test_a_layout_waits_only_for_what_stands_before():
    steps = Layout().of(chain(tasks.one.s(), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s()))
    assert [step.after for step in steps] == [(), (0,), (0,), (1, 2)]
    assert [step.listed for step in steps] == [False, False, False, True]


# -- large and empty ones -------------------------------------------------------------------------


def carry_on(*, finish=lambda job: steps.succeeded(1)) -> None:
    """Do what a worker does until nothing is left: quicker than one, and in this thread."""
    holder = steps.worker()
    while jobs := steps.take(holder, 100):
        for job in jobs:
            steps.end(job, finish(job))
        follow_up("default")


def by_hand(job):
    """What its task returns, when called here."""
    return steps.succeeded(resolve(job.task_path).func(*job.args, **job.kwargs))


def test_a_chain_of_a_thousand_steps_made_with_then():
    long = chain(tasks.one.s())
    for _ in range(999):
        long = long.then(tasks.add.s())
    assert [step.after for step in Layout().of(long)] == [(), *((place,) for place in range(999))]
    assert "…" in repr(long) or len(repr(long)) > 1000
    enqueued = long.enqueue()
    assert len(enqueued) == 1000 and Dependency.objects.count() == 999


def test_parts_may_be_in_parts_a_thousand_times():
    deep = chain(tasks.one.s())
    for number in range(1000):
        deep = group(deep) if number % 2 else deep.finally_(tasks.show.si()).then(tasks.show.s())
    assert len(Layout().of(deep)) == 1001
    assert len(repr(deep)) < 500


@pytest.mark.parametrize(("first", "second"), [(30, 30), (3, 3), (40, 3)])
def test_a_group_behind_a_group_costs_a_row_for_each_job(first, second):
    parts = group(*(tasks.one.s() for _ in range(first))), group(*(tasks.show.s() for _ in range(second)))
    enqueued = chain(*parts, tasks.show.s()).enqueue()
    assert len(enqueued) == first + second + 1
    assert Dependency.objects.count() == first + second + second
    carry_on(finish=by_hand)
    assert value(enqueued[first]) == [[[1] * first], {}]
    assert len(value(enqueued[-1])[0][0]) == second


@pytest.mark.parametrize(("if_failed", "status"), [("cancel", "CANCELLED"), ("fail", "FAILED"), ("run", "SUCCESSFUL")])
def test_a_group_behind_a_wide_group_in_which_something_fails(if_failed, status):
    wide = group(*(tasks.one.s() for _ in range(4)), tasks.fails.s())
    enqueued = wide.then(group(*(tasks.show.s(n) for n in range(5))), if_failed=if_failed).enqueue()
    carry_on(finish=lambda job: steps.failed() if job.task_name == "fails" else by_hand(job))
    assert statuses(enqueued) == ["SUCCESSFUL"] * 4 + ["FAILED"] + [status] * 5
    if if_failed == "run":
        assert value(enqueued[5]) == [[[1, 1, 1, 1, None], 0], {}]
    else:
        # and on it goes when the one is retried
        retry([int(enqueued[4].id)])
        carry_on()
        assert statuses(enqueued) == ["SUCCESSFUL"] * 10


def test_a_wide_group_grows_while_it_runs():
    enqueued = group(*(tasks.one.s() for _ in range(3))).then(group(*(tasks.show.s() for _ in range(3)))).enqueue()
    enqueue_beside([tasks.add.si(6)], job=enqueued[0])
    carry_on(finish=by_hand)
    assert value(enqueued[-1]) == [[[1, 1, 1, 7]], {}]


def test_chains_behind_a_wide_group_that_want_no_result():
    first = group(*(tasks.one.s() for _ in range(5)))
    enqueued = chain(first, group(*(chain(tasks.show.si(n), tasks.show.s()) for n in range(5)))).enqueue()
    assert Dependency.objects.filter(position__isnull=False).count() == 5
    carry_on(finish=by_hand)
    assert value(enqueued[-1]) == [[[[4], {}]], {}]
    assert Job.objects.get(task_path="django_jobqueue.gathering.gather").result is None


def test_the_step_between_wide_groups_is_in_the_queue_of_the_first():
    wide = group(*(tasks.one.using(queue_name="mail").s() for _ in range(3)))
    wide.then(group(*(tasks.show.s() for _ in range(3)))).enqueue()
    between = Job.objects.get(task_path="django_jobqueue.gathering.gather")
    assert (between.status, between.queue_name) == ("WAITING", "mail")


@pytest.mark.parametrize(
    ("make", "result"),
    [
        (lambda: group().then(tasks.show.s(5)), [[[], 5], {}]),
        (lambda: group().then(tasks.show.si(5)), [[5], {}]),
        (lambda: chain(tasks.one.s(), group(), tasks.show.s()), [[[]], {}]),
        (lambda: chain(group(), group(), tasks.show.s()), [[[]], {}]),
        (lambda: group(group(), tasks.one.s()).then(tasks.show.s()), [[[1]], {}]),
        (lambda: group(chain(tasks.one.s(), group()), tasks.add.s(1)).then(tasks.show.s()), [[[2]], {}]),
        (lambda: chain(group(), group(tasks.show.s()), tasks.show.s()), [[[[[[]], {}]]], {}]),
    ],
)
def test_a_group_of_nothing_hands_on_an_empty_list(make, result):
    enqueued = make().enqueue()
    carry_on(finish=by_hand)
    assert value(enqueued[-1]) == result
    assert set(statuses(enqueued)) == {"SUCCESSFUL"}


def test_what_lies_before_a_group_of_nothing_is_waited_for():
    enqueued = chain(tasks.one.s(), group().finally_(tasks.show.si("end")), tasks.show.s()).enqueue()
    assert statuses(enqueued) == ["READY", "WAITING", "WAITING"]
    carry_on(finish=lambda job: steps.failed())
    assert statuses(enqueued) == ["FAILED", "FAILED", "CANCELLED"]


def test_a_group_of_nothing_and_nothing_more():
    enqueued = group().enqueue()
    assert list(enqueued) == [] and enqueued.batch_id is None
    assert len(group().finally_(tasks.show.si()).on_failure(tasks.show.si()).enqueue()) == 1
    with pytest.raises(InvalidTask, match="cannot take the result"):
        group().then(tasks.nothing.s()).enqueue()
