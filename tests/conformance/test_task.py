"""Task: its fields, ``using()``, and what is refused at declaration."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta
from functools import partial

import django
import pytest
from asgiref.sync import async_to_sync

from . import tasks
from .framework import InvalidTask, Task, task

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def declare(func, **changes):
    """Make the task as the framework's decorator does; all fields are given, as Django 6.0 wants it."""
    return task(**changes)(func)


def test_a_task_has_the_fields_of_the_contract():
    assert tasks.add.func.__name__ == "add"
    assert (tasks.add.priority, tasks.add.backend, tasks.add.queue_name) == (0, "default", "default")
    assert tasks.add.run_after is None
    assert tasks.add.takes_context is False
    assert tasks.describe.takes_context is True


def test_a_task_has_a_name_and_a_module_path():
    assert tasks.add.name == "add"
    assert tasks.add.module_path == f"{tasks.__name__}.add"


def test_a_task_is_made_by_the_task_class_of_its_backend(backend):
    assert isinstance(tasks.add, Task)
    assert type(tasks.add) is backend.task_class


def test_a_task_is_frozen():
    for field in fields(tasks.add):
        with pytest.raises(FrozenInstanceError):
            setattr(tasks.add, field.name, getattr(tasks.add, field.name))


def test_a_task_is_hashable():
    assert {tasks.add: 1}[tasks.add.using()] == 1
    assert len({tasks.add, tasks.add.using(), tasks.other}) == 2


def test_a_task_can_be_called_without_a_queue():
    assert tasks.add.call(1, b=2) == 3
    assert async_to_sync(tasks.add.acall)(1, b=2) == 3


@pytest.mark.needs("async")
def test_an_async_task_can_be_called_without_a_queue(async_tasks):
    assert async_tasks.add.call(1, b=2) == 3
    assert async_to_sync(async_tasks.add.acall)(1, b=2) == 3


if django.VERSION >= (6, 1):

    def test_a_task_can_be_pickled():
        changed = tasks.add.using(queue_name="mail")
        assert pickle.loads(pickle.dumps(tasks.add)) == tasks.add
        assert pickle.loads(pickle.dumps(changed)) == changed


# using()


def test_using_changes_a_copy():
    changed = tasks.add.using(queue_name="mail", backend="other")
    assert (changed.queue_name, changed.backend) == ("mail", "other")
    assert (tasks.add.queue_name, tasks.add.backend) == ("default", "default")
    assert type(changed) is type(tasks.add)
    assert changed.func is tasks.add.func
    assert changed != tasks.add


@pytest.mark.needs("priority")
def test_using_changes_the_priority():
    assert tasks.add.using(priority=50).priority == 50
    assert tasks.add.using(priority=50).using(priority=0).priority == 0


@pytest.mark.needs("defer")
def test_using_changes_run_after():
    assert tasks.add.using(run_after=LATER).run_after == LATER


def test_using_takes_none_for_unchanged():
    changed = tasks.add.using(queue_name="mail")
    assert changed.using(priority=None, queue_name=None, run_after=None, backend=None) == changed


def test_using_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="colour"):
        tasks.add.using(colour="green")


def test_using_validates_what_it_makes():
    narrow = tasks.add.using(backend="narrow")
    assert narrow.using(queue_name="mail").queue_name == "mail"
    with pytest.raises(InvalidTask, match="nightly"):
        narrow.using(queue_name="nightly")
    with pytest.raises(InvalidTask):
        tasks.add.using(priority=101)


def test_using_validates_for_the_new_backend():
    with pytest.raises(InvalidTask, match="nightly"):
        tasks.add.using(queue_name="nightly").using(backend="narrow")


def test_using_refuses_a_backend_that_is_not_in_tasks():
    with pytest.raises(Exception, match="nowhere"):
        tasks.add.using(backend="nowhere")


# What a backend refuses


def module_level(a):
    pass


def wants_context(context, a):
    pass


def context_second(a, context):
    pass


async def coroutine(a):
    pass


class Holder:
    def __call__(self):
        pass


def test_a_function_at_module_level_is_a_task():
    assert declare(module_level).func is module_level


def local_function():
    def inner():
        pass

    return inner


@pytest.mark.parametrize(
    "func",
    [local_function(), len, Holder(), partial(module_level, 1)],
    ids=["local function", "builtin", "callable object", "partial"],
)
def test_only_a_function_at_module_level_is_a_task(func):
    with pytest.raises(InvalidTask):
        declare(func)


def test_a_task_that_takes_the_context_names_it_first():
    assert declare(wants_context, takes_context=True).takes_context
    for func in (module_level, context_second):
        with pytest.raises(InvalidTask, match="context"):
            declare(func, takes_context=True)


@pytest.mark.needs("async")
def test_a_coroutine_function_is_a_task_where_the_backend_declares_it():
    assert declare(coroutine).func is coroutine


@pytest.mark.needs("priority")
@pytest.mark.parametrize("priority", [-100, -1, 0, 1, 100])
def test_a_priority_is_a_whole_number_from_minus_100_to_100(priority):
    assert declare(module_level, priority=priority).priority == priority


@pytest.mark.parametrize("priority", [-101, 101, 1.5, 10**9])
def test_a_priority_out_of_range_is_refused(priority):
    with pytest.raises(InvalidTask):
        declare(module_level, priority=priority)


@pytest.mark.needs("defer")
def test_a_naive_run_after_is_refused_with_time_zones(settings):
    naive = datetime(2100, 1, 1)
    with pytest.raises(InvalidTask):
        tasks.add.using(run_after=naive)
    settings.USE_TZ = False
    assert tasks.add.using(run_after=naive).run_after == naive


def test_an_empty_list_of_queues_allows_any():
    assert declare(module_level, queue_name="any-queue at all").queue_name == "any-queue at all"


def test_without_queues_only_the_default_queue_is_allowed():
    assert declare(module_level, backend="usual").queue_name == "default"
    with pytest.raises(InvalidTask, match="mail"):
        declare(module_level, backend="usual", queue_name="mail")


def test_trap_8_a_queue_that_is_not_in_queues_is_an_invalid_task():
    assert declare(module_level, backend="narrow", queue_name="mail").queue_name == "mail"
    with pytest.raises(InvalidTask, match="nightly"):
        declare(module_level, backend="narrow", queue_name="nightly")


def test_run_after_cannot_be_declared():
    with pytest.raises(TypeError, match="run_after"):
        declare(module_level, run_after=LATER)
    with pytest.raises(TypeError, match="run_after"):
        declare(module_level, run_after=timedelta(minutes=1))


def test_an_option_that_nobody_knows_cannot_be_declared():
    with pytest.raises(TypeError, match="colour"):
        declare(module_level, colour="green")


@pytest.mark.needs("rows")
def test_enqueue_validates_again(backends, rows):
    """The task may have been made for another backend, or before the settings changed."""
    with pytest.raises(InvalidTask, match="nightly"):
        backends["narrow"].enqueue(tasks.add.using(queue_name="nightly"), [1], {})
    assert rows.count() == 0
