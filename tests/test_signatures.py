"""Arguments that do not fit the task's function are found where the job is enqueued."""

import functools
import inspect

import pytest

from django_jobqueue import chain, cron, enqueue_beside, enqueue_many, group, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.middleware.base import Middleware
from django_jobqueue.models import Job
from django_jobqueue.signatures import _fitting, check_arguments, pattern

from .batch_tasks import one


def logged(function):
    @functools.wraps(function)
    def logging(*args, **kwargs):
        return function(*args, **kwargs)

    return logging


@task
def two(a, b):
    pass


@task
def optional(a, b=2, *, c=3):
    pass


@task
def positional(a, b, /, c):
    pass


@task
def named(a, *, key, other):
    pass


@task
def rest(a, *others, key=None):
    pass


@task
def options(a, **others):
    pass


@task
def anything(*args, **kwargs):
    pass


@task
async def in_a_coroutine(a, b):
    pass


@task(takes_context=True)
def with_context(context, a, b=2):
    pass


@task
@logged
def decorated(a, b=2):
    pass


class Client(Middleware):
    provides = ("client",)

    def __call__(self, context, call_next):
        return call_next(client=None)


class Filler(Middleware):
    def process_enqueue(self, jobs, call_next):
        for job in jobs:
            job.kwargs.setdefault("b", 2)
        return call_next(jobs)


@task(middleware=[Client])
def provided(client, *, b=None):
    pass


@task
def provided_by_the_project(a, client):
    pass


TASKS = [two, optional, positional, named, rest, options, anything, in_a_coroutine, with_context, decorated]
CALLS = [
    (args, dict.fromkeys(names, 0))
    for args in ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))
    for names in ("", "a", "b", "ab", "c", "bc", "x", ["key"], ["key", "other"], ["a", "key"], ["others"])
]


@pytest.mark.once
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_what_python_would_refuse_is_refused_in_its_words(task):
    refused = 0
    for args, kwargs in CALLS * 2:  # the second time from memory
        try:
            bound = [None, *args] if task.takes_context else args
            inspect.signature(task.func).bind(*bound, **kwargs)
        except TypeError:
            refused += 1
            with pytest.raises(TypeError) as caught:
                check_arguments(task, args, kwargs)
            if task not in (with_context, decorated, in_a_coroutine):
                with pytest.raises(TypeError) as pythons:
                    task.func(*args, **kwargs)
                words = (
                    str(pythons.value)
                    .partition("()")[2]
                    .partition(" (and ")[0]
                    .partition(" positional arg")[0]
                    .partition(". Did")[0]
                )
                assert f"{task.module_path}(){words}" in str(caught.value)
        else:
            check_arguments(task, args, kwargs)
    assert refused or task is anything


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("enqueue", "words"),
    [
        (lambda: two.enqueue(1), "two() missing 1 required positional argument: 'b'"),
        (lambda: two.enqueue(1, 2, 3), "two() takes 2 positional arguments but 3 were given"),
        (lambda: two.enqueue(1, bee=2), "two() got an unexpected keyword argument 'bee'"),
        (lambda: two.using(priority=5).enqueue(), "two() missing 2 required positional arguments: 'a' and 'b'"),
        (lambda: with_context.enqueue(), "with_context() missing 1 required positional argument: 'a'"),
        (lambda: with_context.enqueue(1, 2, 3), "with_context() takes from 1 to 2 positional arguments but 3 were"),
        (lambda: decorated.enqueue(1, 2, 3), "decorated() takes from 1 to 2 positional arguments but 3 were given"),
        (lambda: enqueue_many([two.s(1, 2), two.s(1)]), "two() missing 1 required positional argument: 'b'"),
        (lambda: chain(two.s(1), optional.s()).enqueue(), "two() missing 1 required positional argument: 'b'"),
        (lambda: chain(one.s(), two.s()).enqueue(), "two() missing 1 required positional argument: 'b'"),
        (lambda: chain(one.s(), two.si(1)).enqueue(), "two() missing 1 required positional argument: 'b'"),
        (lambda: group(one.s(), one.s(5)).enqueue(), "one() takes 0 positional arguments but 1 was given"),
        (lambda: group(one.s()).finally_(two.s(1)).enqueue(), "two() missing 1 required positional argument: 'b'"),
        (lambda: provided.enqueue(c=1), "provided() got an unexpected keyword argument 'c'"),
        (lambda: enqueue_beside([two.s(1)], 1), "two() missing 1 required positional argument: 'b'"),
    ],
)
def test_g9_a_call_that_does_not_fit_is_refused_and_nothing_is_inserted(enqueue, words):
    with pytest.raises(TypeError) as caught:
        enqueue()
    assert f"tests.{words}".split("()")[1] in str(caught.value) and words.split("()")[0] in str(caught.value)
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_what_is_handed_on_and_provided_need_not_be_given(settings):
    chain(one.s(), two.s(2), two.s(b=3)).enqueue()
    group(one.s(), one.s()).then(optional.s()).enqueue()
    provided.enqueue()
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'client'"):
        provided_by_the_project.enqueue(1)
    settings.JOBQUEUE_MIDDLEWARE = ["tests.test_signatures.Client"]
    provided_by_the_project.enqueue(1)
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'a'"):
        provided_by_the_project.enqueue()
    assert Job.objects.count() == 8


@pytest.mark.django_db
def test_what_a_layer_adds_when_jobs_are_enqueued_need_not_be_given(settings):
    settings.JOBQUEUE_MIDDLEWARE = ["tests.test_signatures.Filler"]
    two.enqueue(1)
    enqueue_many([two.s(1), two.s(1)])
    chain(two.s(1), two.s()).enqueue()
    with pytest.raises(TypeError, match=r"two\(\) missing 1 required positional argument: 'a'"):
        two.enqueue()
    assert Job.objects.count() == 5


@pytest.mark.once
def test_a_function_without_a_signature_takes_anything():
    class Odd:
        module_path, takes_context, func = "odd", False, staticmethod(dict.fromkeys)

    Odd.func = type("F", (), {"__call__": dict, "__signature__": 5})()
    check_arguments(Odd, (1, 2), {"a": 1})


@pytest.mark.once
def test_no_more_patterns_are_remembered_than_a_few_hundred():
    for number in range(1000):
        check_arguments(options, (1,), {f"name_{number}": 1})
    assert len(_fitting(options.func, False, ())) <= 250
    assert pattern((1, 2), {}) == pattern((1,), {}, handed=1)


@pytest.mark.once
def test_a_schedules_arguments_are_checked_when_it_is_declared():
    with pytest.raises(InvalidTask, match="b"):
        task(schedule=cron("* * * * *", args=[1]))(two.func)
