"""Keys: what a template or a callable makes of a call."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.utils import timezone

from django_jobqueue import task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.keys import KEY_LENGTH, clean_key, filled, limit_key, shortened, unique_key, unique_text
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.middleware.rate_limit import RateLimit
from django_jobqueue.models import Job

pytestmark = pytest.mark.once


@task
def plain(order, size=64, *rest, key=None, **others):
    pass


@task(takes_context=True)
def with_context(context, order, since=timedelta(days=1)):
    pass


def job(*args, **kwargs) -> Job:
    return Job(task_path="shop.tasks.plain", args=list(args), kwargs=kwargs, enqueued_at=timezone.now())


def made(unique, *args, declared=plain, **kwargs):
    """The text of the call's key."""
    own = task(unique=unique, takes_context=declared.takes_context)(declared.func)
    return unique_text(own, job(*args, **kwargs))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{order}-{size}", "7-64"),
        ("{0}-{key}", "7-k"),
        ("{rest}", "()"),
        ("{others[x]}", "[1]"),
        ("{x[0]}", "1"),
        ("always", "always"),
    ],
)
def test_a_template_has_the_arguments_by_name_and_number_with_their_defaults(template, text):
    assert filled(template, "unique", plain, job(7, key="k", x=[1])) == text


def test_a_template_of_a_task_that_takes_the_context_has_the_other_arguments():
    assert filled("{order} {0}", "unique", with_context, job(7)) == "7 7"


@pytest.mark.parametrize("template", ["{nobody}", "{9}", "{order.size}", "{order[x]}", "{order[0]}", "{order:y}"])
def test_a_template_that_does_not_fit_the_call_says_which_and_why(template):
    with pytest.raises(ValueError, match=r"^The unique '\{.*\}' does not fit the call plain\(7\): \w+Error "):
        filled(template, "unique", plain, job(7))


def test_all_arguments_are_the_key_however_they_are_spelled():
    assert made(True, 7) == made(True, order=7) == made(True, 7, 64) == made(True, 7, key=None)
    assert made(True, 7) == '{"key": null, "order": 7, "others": {}, "rest": [], "size": 64}'
    assert len({made(True, *args) for args in [(7,), ("7",), (7, 65), (7, 64, 1), ([7],), (None,), (True,)]}) == 7
    assert made(True, 1, others={"a": 1}, a=1) != made(True, 1, a=1)
    assert made(True, {"a": 1, "b": 2}) == made(True, {"b": 2, "a": 1})


def test_a_default_that_is_no_data_tells_by_its_type():
    assert made(True, 7, declared=with_context) == '{"order": 7, "since": "timedelta"}'
    assert made(True, 7, 3, declared=with_context) == '{"order": 7, "since": 3}'


def test_a_call_that_the_function_will_refuse_has_a_key_too():
    assert made(True, 1, 2, 3, declared=with_context) == '{"args": [1, 2, 3], "kwargs": {}}'


def test_a_callable_answers_with_a_string_with_data_or_with_nothing():
    assert made(lambda order, **others: f"order {order}", 7) == "order 7"
    assert made(lambda *args, **kwargs: (args, kwargs), 7, key=1) == '[[7], {"key": 1}]'
    assert made(lambda order: None, 7) is None
    assert made(lambda order: 7, 7) == made(lambda order: "7", 7)
    with pytest.raises(TypeError, match=r"unique of .*plain made no data of plain\(7\)"):
        made(lambda order: object(), 7)


def test_what_no_database_stores_is_no_part_of_a_key():
    assert made(lambda order: "a\x00b\ud800", 7) == "a␀b?"


def test_a_long_key_is_cut_and_stays_its_own():
    short, long, longer = "x" * KEY_LENGTH, "x" * (KEY_LENGTH + 1), "x" * (KEY_LENGTH + 2)
    assert shortened(short) == short
    assert len(shortened(long)) == len(shortened(longer)) == KEY_LENGTH
    assert len({shortened(text) for text in (short, long, longer)}) == 3
    assert len(unique_key("a.b", long)) == 40


def test_a_limits_key_is_made_by_a_template_or_a_callable():
    assert clean_key("{order}") == "{order}" and clean_key(None) is None and clean_key(len) is len
    for value in ("", 7, True):
        with pytest.raises(TypeError, match="template such as"):
            clean_key(value)


def test_a_task_that_is_declared_with_nonsense_names_it():
    with pytest.raises(InvalidTask, match=r"closed: unique '\{odrer\}' names odrer: closed has no such parameter"):

        @task(unique="{odrer}")
        def closed(order):
            pass


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_key_is_refused(blank):
    with pytest.raises(ValueError, match=r"unique of .*plain made a blank key of plain\(7\)"):
        made(lambda order: blank, 7)
    with pytest.raises(ValueError, match="blank key"):
        made("{order}", blank)
    with pytest.raises(TypeError, match="template such as"):
        clean_key(blank)


@pytest.mark.parametrize("option", ["concurrency_key", "rate_key"])
def test_a_limits_key_is_made_as_a_unique_one(option):
    def key(answer):
        return limit_key(with_context, Job(args=[7], kwargs={}, options={option: lambda order: answer}), option)

    assert key(None) is None
    assert key("x" * 300) == shortened("x" * 300)
    assert [key(answer) for answer in (7, True, ["a", 1], {"b": 1, "a": 2})] == [
        "7",
        "true",
        '["a", 1]',
        '{"a": 2, "b": 1}',
    ]
    number = uuid4()
    assert [key(number), key(Decimal("1.50")), key(date(2026, 1, 2))] == [str(number), "1.50", "2026-01-02"]
    with pytest.raises(ValueError, match=f"{option} of .*with_context made a blank key"):
        key(" ")
    with pytest.raises(TypeError, match=f"{option} of .*with_context made no data"):
        key(object())


@pytest.mark.parametrize("option", ["concurrency_key", "rate_key", "unique"])
@pytest.mark.parametrize(("template", "missing"), [("{tennant}", "tennant"), ("a-{size[x]}", "size"), ("{1}", "1")])
def test_a_key_of_arguments_that_the_task_does_not_have_is_refused_at_its_declaration(option, template, missing):
    def closed(tenant):
        pass

    with pytest.raises(InvalidTask, match=f"{option} .* names {missing}: closed has no such parameter"):
        task(middleware=[Concurrency, RateLimit], **{option: template})(closed)
