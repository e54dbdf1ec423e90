"""Tasks in the tests of projects: with methods that a mock replaces, and fields that stay as they are."""

import copy
from dataclasses import FrozenInstanceError, fields
from unittest import mock

import pytest

from django_jobqueue import chain, enqueue_many, task
from django_jobqueue.models import Job
from django_jobqueue.signatures import _fitting
from django_jobqueue.task import JobTask
from django_jobqueue.testing import run_jobs
from tests import tasks

from .tasks import add, async_add, noop

pytestmark = pytest.mark.once


@task(unique="user-{user_id}")
def keyed(user_id):
    pass


@pytest.mark.parametrize("name", ["enqueue", "aenqueue", "s", "si", "using", "call", "get_result", "get_backend"])
@pytest.mark.parametrize("autospec", [None, True])
def test_a_method_can_be_mocked_and_comes_back(name, autospec):
    before = getattr(add, name)
    with mock.patch.object(add, name, autospec=autospec) as double:
        assert getattr(add, name) is double and not double.called
    assert getattr(add, name) == before and not vars(add)


def test_a_mocked_enqueue_is_called_in_its_place():
    with mock.patch("tests.tasks.add.enqueue", return_value="result") as enqueue:
        assert tasks.add.enqueue(1, b=2) == "result"
        assert noop.enqueue != enqueue
    enqueue.assert_called_once_with(1, b=2)


async def _call(task):
    return await task.aenqueue(1, 2)


def test_an_async_method_is_replaced_by_an_async_mock():
    import asyncio

    with mock.patch.object(add, "aenqueue", return_value="result") as aenqueue:
        assert asyncio.run(_call(add)) == "result"
    aenqueue.assert_awaited_once_with(1, 2)


def test_autospec_knows_the_parameters():
    with mock.patch.object(add, "using", autospec=True) as using, pytest.raises(TypeError):
        add.using(5)
    assert not using.called


def test_mocks_nest():
    with mock.patch.object(add, "enqueue") as outer:
        with mock.patch.object(add, "enqueue") as inner:
            assert add.enqueue is inner
        assert add.enqueue is outer
    assert not vars(add)


def test_monkeypatch_replaces_and_restores(monkeypatch):
    calls = []
    monkeypatch.setattr(add, "enqueue", lambda *args: calls.append(args))
    add.enqueue(1, 2)
    monkeypatch.undo()
    assert calls == [(1, 2)] and not vars(add)
    monkeypatch.setattr("tests.tasks.add.s", None)
    assert add.s is None
    monkeypatch.undo()
    assert add.s(1).args == (1,)


@pytest.mark.parametrize(("task", "autospec"), [(add, None), (add, True), (async_add, None)])
def test_the_function_can_be_mocked_and_is_still_found(task, autospec):
    func, path = task.func, task.module_path
    with mock.patch.object(task, "func", autospec=autospec) as double:
        assert (task.func, task.module_path, task.name) == (double, path, func.__name__)
        task.call(1, 2)
    double.assert_called_once_with(1, 2)
    assert task.func is func and not vars(task)


@pytest.fixture
def new_to_the_backend():
    """What the backend has learnt of tasks is forgotten: each is enqueued for the first time."""
    for each in (add, noop):
        each.get_backend().__dict__.pop("_known", None)
    _fitting.cache_clear()


@pytest.mark.django_db
@pytest.mark.usefixtures("new_to_the_backend")
@pytest.mark.parametrize("autospec", [None, True])
@pytest.mark.parametrize(
    ("task", "args"),
    [(add, (1, 2)), (async_add, (1, 2)), (tasks.succeed_at, (2,)), (keyed, (7,))],
    ids=["sync", "async", "takes_context", "unique"],
)
def test_a_task_whose_function_is_mocked_can_be_enqueued_for_the_first_time(task, args, autospec):
    with mock.patch.object(task, "func", autospec=autospec, return_value=None) as double:
        first = task.enqueue(*args)
        task.using(priority=5).enqueue(*args)
        enqueue_many([task.s(*args)])
        run_jobs()
    assert double.called
    job = Job.objects.get(pk=first.id)
    assert (job.task_path, job.status) == (task.module_path, "SUCCESSFUL")


@pytest.mark.django_db
@pytest.mark.usefixtures("new_to_the_backend")
def test_a_task_whose_function_is_mocked_takes_results_of_others():
    with mock.patch.object(add, "func", return_value=5) as double:
        chain(add.s(1, 2), add.s(3)).enqueue()
        run_jobs()
    assert double.call_args_list == [mock.call(1, 2), mock.call(5, 3)]


@pytest.mark.usefixtures("new_to_the_backend")
def test_a_call_that_the_function_does_not_take_is_refused_though_a_mock_would_take_it():
    with mock.patch.object(add, "func"), pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        add.enqueue(1)


def test_a_copy_has_no_mocks():
    with mock.patch.object(add, "enqueue"):
        assert add.using(priority=5).enqueue.__func__ is JobTask.enqueue


def test_fields_stay_frozen():
    for item in fields(add):
        with pytest.raises(FrozenInstanceError):
            setattr(add, item.name, getattr(noop, item.name))
        with pytest.raises(FrozenInstanceError):
            delattr(add, item.name)
    for change in (lambda: setattr(add, "color", 1), lambda: delattr(add, "color"), lambda: delattr(add, "enqueue")):
        with pytest.raises(FrozenInstanceError):
            change()
    with pytest.raises(FrozenInstanceError), mock.patch.object(add, "priority", 5):
        pass


def test_a_copy_of_a_task_is_the_task():
    assert copy.copy(add) is copy.deepcopy(add) is add
