"""Jobs that no longer fit: their task is renamed, removed, of another deploy, or never was one; their alias or queue is
not in the settings any more.
"""

from __future__ import annotations

import pytest
from django.test import override_settings

from . import tasks
from .framework import TaskResult, TaskResultMismatch, TaskResultStatus
from .marks import runs

pytestmark = [pytest.mark.needs("rows", "results", "worker"), pytest.mark.django_db]

PATHS = {
    "renamed": f"{tasks.__name__}.gone",
    "module removed": f"{tasks.__package__}.no_such_module.add",
    "package removed": "no_such_package.tasks.add",
    "not a task": f"{tasks.__name__}.not_a_task",
    "function of the standard library": "os.getcwd",
    "no path at all": "add",
    "empty": "",
    "dots": "...",
}

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


@pytest.fixture
def enqueue_as(rows):
    """Enqueue a job, and let its row name another task."""

    def enqueue_as(path, argument="word"):
        result = tasks.record.enqueue(argument)
        assert rows.filter(pk=result.id).update(task_path=path) == 1
        return result

    return enqueue_as


@every_path
def test_trap_13_a_result_of_an_unknown_task_can_be_read(path, enqueue_as, backend):
    result = enqueue_as(path)
    found = backend.get_result(result.id)
    assert isinstance(found, TaskResult)
    assert found.id == result.id
    assert found.status == TaskResultStatus.READY
    assert found.args == ["word"]
    assert found.task.queue_name == "default"
    assert found.task.backend == found.backend == "default"
    assert path in found.task.module_path
    assert isinstance(found.task.name, str)


@every_path
def test_trap_13_the_stub_of_an_unknown_task_raises_when_called(path, enqueue_as, backend, calls):
    stub = backend.get_result(enqueue_as(path).id).task
    with pytest.raises(Exception, match=r".") as raised:
        stub.call("word")
    assert path in str(raised.value)
    assert calls == []


def test_trap_13_a_stub_cannot_be_enqueued(enqueue_as, backend, rows):
    stub = backend.get_result(enqueue_as(PATHS["renamed"]).id).task
    with pytest.raises(Exception, match="gone"):
        stub.enqueue("word")
    assert rows.count() == 1


def test_trap_13_a_listing_does_not_stumble_over_one_stale_job(enqueue_as, backend):
    results = [tasks.add.enqueue(1), enqueue_as(PATHS["renamed"]), tasks.add.enqueue(2)]
    assert [backend.get_result(result.id).status for result in results] == [TaskResultStatus.READY] * 3
    assert len({backend.get_result(result.id).task for result in results}) == 2
    assert all(repr(backend.get_result(result.id)) for result in results)


def test_trap_13_a_stale_result_can_be_refreshed(enqueue_as):
    result = enqueue_as(PATHS["renamed"])
    result.refresh()
    assert result.status == TaskResultStatus.READY
    assert result.task == tasks.record


def test_trap_13_a_stale_result_belongs_to_no_other_task(enqueue_as):
    result = enqueue_as(PATHS["renamed"])
    with pytest.raises(TaskResultMismatch, match="gone"):
        tasks.add.get_result(result.id)


@runs
def test_an_unknown_task_is_never_called_and_stops_nobody(enqueue_as, backend, drain, calls):
    for path in PATHS.values():
        enqueue_as(path, "must not run")
    good = tasks.record.enqueue("runs")
    drain("default")
    assert calls == ["runs"]
    assert backend.get_result(good.id).status == TaskResultStatus.SUCCESSFUL


@pytest.mark.needs("unknown tasks wait")
@runs
def test_a_job_for_an_unknown_task_stays_unfinished(enqueue_as, backend, drain):
    results = [enqueue_as(path) for path in PATHS.values()]
    drain("default")
    drain("default")
    found = [backend.get_result(result.id) for result in results]
    assert {result.status for result in found} == {TaskResultStatus.READY}
    assert [result.errors for result in found] == [[]] * len(PATHS)
    assert [result.is_finished for result in found] == [False] * len(PATHS)


@pytest.mark.needs("unknown tasks wait")
@runs
def test_a_job_for_an_unknown_task_runs_once_the_task_is_known(enqueue_as, backend, drain, calls, rows):
    from django_jobqueue.lifecycle import control

    result = enqueue_as(PATHS["renamed"])
    drain("default")
    rows.filter(pk=result.id).update(task_path=tasks.record.module_path)
    control.run_now([int(result.id)])  # a worker looks for the task again only after a while
    drain("default")
    assert calls == ["word"]
    assert backend.get_result(result.id).status == TaskResultStatus.SUCCESSFUL


@runs
def test_a_finished_job_keeps_its_outcome_when_its_task_goes(run, backend, rows):
    result = run(tasks.add, 1, 2)
    rows.filter(pk=result.id).update(task_path=PATHS["renamed"])
    found = backend.get_result(result.id)
    assert found.status == TaskResultStatus.SUCCESSFUL
    assert found.return_value == 3
    assert found.attempts == 1


# Settings that have changed since


@runs
def test_trap_13_a_job_of_a_queue_that_is_no_longer_allowed_can_be_read_and_runs(subject, backends, drain):
    result = tasks.add.using(queue_name="nightly", priority=5).enqueue(1, 2)
    with override_settings(TASKS={"default": subject.entry(QUEUES=["default"])}):
        found = backends["default"].get_result(result.id)
        assert (found.task.queue_name, found.task.priority) == ("nightly", 5)
        drain("default")
        assert backends["default"].get_result(result.id).return_value == 3


def test_trap_13_a_job_of_an_alias_that_is_gone_can_be_read(subject, backends):
    result = tasks.add.using(backend="other").enqueue(1, 2)
    with override_settings(TASKS={"default": subject.entry(QUEUES=[])}):
        found = backends["default"].get_result(result.id)
        assert found.backend == "other"
        assert found.args == [1, 2]
