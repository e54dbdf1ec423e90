"""How long jobs are kept: what may be written, where, and what comes of it."""

from datetime import timedelta

import pytest

from django_jobqueue import task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.conf import DEFAULT_RETENTION, Options, problems_of
from django_jobqueue.retention import STATUSES, as_kept

DAY = 86_400.0


def test_one_value_counts_for_each_status():
    assert as_kept(60) == as_kept(timedelta(minutes=1)) == dict.fromkeys(STATUSES, 60.0)
    assert as_kept(None) == dict.fromkeys(STATUSES)
    assert as_kept(0)["FAILED"] == 0


def test_values_by_status_count_for_these_alone():
    said = as_kept({"SUCCESSFUL": 3600, "FAILED": timedelta(days=30), "CANCELLED": None})
    assert said == {"SUCCESSFUL": 3600.0, "FAILED": 30 * DAY, "CANCELLED": None}
    assert as_kept({}) == {}


BAD = [-1, True, "7d", float("nan"), 10**12, timedelta(days=-1), {"DONE": 1}, {"FAILED": "long"}, {"READY": None}]


@pytest.mark.parametrize("value", BAD, ids=str)
def test_what_cannot_be_is_refused_where_it_is_written(value):
    with pytest.raises(InvalidTask, match=r"tests\.test_retention\.\S*: keep (must|has)"):
        task(keep=value)(lambda: None)
    with pytest.raises(InvalidTask, match="keep"):
        plain.using(keep=value)


@task
def plain():
    pass


@task(keep={"SUCCESSFUL": 60, "FAILED": None})
def particular():
    pass


@task(keep=None)
def for_ever():
    pass


def test_a_task_says_it_in_one_value_or_by_status():
    assert plain.keep == {} and for_ever.keep == dict.fromkeys(STATUSES)
    assert particular.keep == {"SUCCESSFUL": 60.0, "FAILED": None}
    assert hash(particular) and particular.using(priority=3).keep == particular.keep


def test_using_adds_to_what_the_task_says_and_its_words_travel():
    changed = particular.using(keep={"FAILED": timedelta(days=1)})
    assert changed.keep == {"SUCCESSFUL": 60.0, "FAILED": DAY}
    assert changed.given == {"keep": {"FAILED": DAY}}, "what the task says is asked when the job ends"
    again = changed.using(keep={"CANCELLED": 5}).using(timeout=5)
    assert again.given == {"keep": {"FAILED": DAY, "CANCELLED": 5.0}, "timeout": 5}
    assert plain.using(keep=None).given == {"keep": dict.fromkeys(STATUSES)}, "None is for ever"
    assert plain.using(priority=1).given == {}


def test_the_projects_retention_may_be_by_status():
    assert Options.read({}).retentions == dict.fromkeys(STATUSES, DEFAULT_RETENTION)
    assert Options.read({"RETENTION": None}).retentions == dict.fromkeys(STATUSES)
    options = Options.read({"RETENTION": {"SUCCESSFUL": 3600, "FAILED": timedelta(days=30)}})
    assert options.retentions == {"SUCCESSFUL": 3600.0, "FAILED": 30 * DAY, "CANCELLED": DEFAULT_RETENTION}


@pytest.mark.parametrize("value", [{"DONE": 1}, {"FAILED": -1}, {"FAILED": "7d"}], ids=str)
def test_a_retention_that_cannot_be_is_named(value):
    (problem,) = problems_of({"RETENTION": value})
    assert problem.startswith(f"OPTIONS['RETENTION'] is {value!r}: it ")


def test_an_archive_is_named_by_its_path():
    assert list(problems_of({"ARCHIVE": "shop.jobs.archive"})) == []
    (problem,) = problems_of({"ARCHIVE": print})
    assert "OPTIONS['ARCHIVE']" in problem and "dotted path" in problem
