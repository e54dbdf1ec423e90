"""Options that layers add: where they are legal, what they may be, and whose value counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from django_jobqueue import checks, task
from django_jobqueue.compat import InvalidTask, task_backends
from django_jobqueue.middleware import JobContext, Middleware
from django_jobqueue.middleware.chain import project_layers
from django_jobqueue.models import Job
from django_jobqueue.options import owners

from ..lifecycle.steps import fresh
from ..tasks import noop
from ..worker.runs import Boss
from ..worker.workers import drain

HERE = "tests.middleware.test_options"
DECLARED: list[str] = []


class Shelf(Middleware):
    options = {"shelf": "top", "height": 1.5, "callback": None}

    @classmethod
    def clean_option(cls, name, value):
        if name == "height" and not isinstance(value, int | float):
            raise ValueError("a height is a number of metres")
        return value


class Own(Middleware):
    options = {"colour": "red"}


class Rival(Middleware):
    options = {"shelf": "bottom"}
    provides = ("user",)


class Provider(Middleware):
    provides = ("user",)


class Needy(Middleware):
    requires = (f"{HERE}.Shelf",)


class Observer(Middleware):
    def task_declared(self, task):
        DECLARED.append(task.module_path)


class Seen(Middleware):
    """Notes what the option's value is when the job runs."""

    values: list[object] = []

    def process_job(self, context, call_next):
        self.values.append((context.option("shelf"), context.option("height"), context.option("timeout")))
        return call_next()


@pytest.fixture(autouse=True)
def with_layers(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Shelf", f"{HERE}.Seen"]
    Seen.values.clear()


def bare():
    pass


@task
def plain():
    pass


def context_of(made, **given) -> JobContext:
    job = Job(pk=1, task_path="x", enqueued_at=datetime.now(UTC), options=given or None)
    return JobContext(job=job, task=made, worker=Boss())


# -- where they are legal -------------------------------------------------------------------------


@pytest.mark.once
def test_an_option_of_a_layer_is_one_of_the_task():
    made = task(shelf="left", max_attempts=3)(bare)
    assert made.options == {"shelf": "left"} and made.max_attempts == 3


@pytest.mark.once
def test_djangos_own_way_to_make_a_task_takes_them_too():
    cls = task_backends["default"].task_class
    made = cls(func=bare, priority=0, queue_name="default", backend="default", takes_context=False,
               run_after=None, shelf="left")  # fmt: skip
    assert made.options == {"shelf": "left"}
    with pytest.raises(TypeError, match="no option 'shelve'"):
        replace(made, options={"shelve": 1})


@pytest.mark.once
@pytest.mark.parametrize("declare", [lambda: task(shelve="left")(bare), lambda: noop.using(shelve="left")])
def test_a_name_that_no_layer_knows_is_refused_and_the_known_ones_are_listed(declare):
    with pytest.raises(TypeError, match=r"no option 'shelve'\. The layers .* add callback, height, shelf"):
        declare()


@pytest.mark.once
@pytest.mark.parametrize("declare", [lambda: task(height="high")(bare), lambda: noop.using(height="high")])
def test_a_value_that_the_layer_refuses_is_refused_where_it_is_written(declare):
    with pytest.raises(InvalidTask, match="'height' cannot be 'high': a height is a number of metres"):
        declare()


@pytest.mark.once
def test_options_of_a_tasks_own_layers_are_legal_for_that_task_alone():
    made = task(middleware=[Own], colour="blue")(bare)
    assert made.options == {"colour": "blue"} and made.using(colour="green").given == {"colour": "green"}
    with pytest.raises(TypeError, match="colour"):
        task(colour="blue")(bare)


@pytest.mark.once
def test_what_must_travel_must_be_data():
    given = noop.using(callback=plain, height=2.5, timeout=timedelta(seconds=3)).given
    assert given == {"callback": f"{HERE}.plain", "height": 2.5, "timeout": 3.0}
    with pytest.raises(TypeError, match=r"'callback' cannot travel with the job.*Give it in @task"):
        noop.using(callback=object())
    assert task(callback=len)(bare).options == {"callback": len}, "what stays in the code may be anything"


@pytest.mark.once
def test_using_adds_to_what_using_has_given():
    given = noop.using(shelf="a").using(height=3).using(shelf="b").given
    assert given == {"shelf": "b", "height": 3}


def test_while_a_layer_cannot_be_imported_nothing_is_refused_and_an_enqueue_asks_again(settings, db):
    settings.JOBQUEUE_MIDDLEWARE = ["tests.middleware.test_options.NotThereYet"]
    made = replace(plain, options={"shelve": 1})
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Shelf"]
    with pytest.raises(TypeError, match="no option 'shelve'"):
        made.enqueue()
    assert not Job.objects.exists()


# -- whose value counts ---------------------------------------------------------------------------


@pytest.mark.once
def test_the_job_comes_before_the_task_the_task_before_the_settings_the_settings_before_the_layer(settings):
    silent, says = task(bare), task(shelf="of the task")(bare)
    assert context_of(silent).option("shelf") == "top"
    settings.JOBQUEUE_DEFAULTS = {"shelf": "of the settings"}
    assert context_of(silent).option("shelf") == "of the settings"
    assert context_of(says).option("shelf") == "of the task"
    assert context_of(says, shelf="of the job").option("shelf") == "of the job"


@pytest.mark.once
def test_none_and_nought_are_values_like_others(settings):
    says = task(shelf=None, height=0)(bare)
    settings.JOBQUEUE_DEFAULTS = {"shelf": "of the settings"}
    assert context_of(says).option("shelf") is None and context_of(says).option("height") == 0
    assert context_of(task(shelf="task")(bare), shelf=None).option("shelf") is None
    explicit = context_of(task(shelf="task")(bare), shelf="top")
    assert explicit.option("shelf") == "top", "what equals the layer's default was said all the same"


@pytest.mark.once
def test_an_option_that_nobody_knows_is_the_callers_default():
    assert context_of(task(bare)).option("shelve") is None and context_of(task(bare)).option("shelve", 7) == 7


@pytest.mark.parametrize("many", [False, True])
def test_what_using_gave_travels_with_the_job_to_the_worker(queue_db, many):
    changed = plain.using(shelf="left", height=0, timeout=9)
    if many:
        job = Job.objects.get(pk=changed.get_backend().enqueue_many([changed.s()] * 60)[0].id)
    else:
        job = Job.objects.get(pk=changed.enqueue().id)
    assert job.options == {"shelf": "left", "height": 0, "timeout": 9}
    drain()
    assert set(Seen.values) == {("left", 0, 9)} and fresh(job).status == "SUCCESSFUL"


def test_a_time_limit_of_one_job_is_kept(queue_db):
    job = Job.objects.get(pk=spins.using(timeout=0.1).enqueue().id)
    drain()
    assert fresh(job).status == "FAILED" and job.attempt_set.get().outcome == "timed_out"


@task(timeout=30)
def spins():
    while True:
        pass


# -- checks, and who is told of tasks -------------------------------------------------------------


def ids() -> list[str]:
    return [message.id for message in checks.check_installation() if message.id != "jobqueue.W007"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["Shelf", "Needy"], []),
        (["Needy", "Shelf"], ["jobqueue.E013"]),
        (["Needy"], ["jobqueue.E013"]),
        (["Shelf", "Rival"], ["jobqueue.E014"]),
        (["Provider", "Rival"], ["jobqueue.E014"]),
        (["Provider", "Own"], []),
    ],
)
def test_what_layers_need_of_each_other_is_checked(settings, monkeypatch, layers, expected):
    monkeypatch.setattr("django_jobqueue.checks.declared", {})
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.{name}" for name in layers]
    assert ids() == expected


@pytest.mark.once
@pytest.mark.parametrize("value", [["shelf"], {"shelve": 1}, {"height": "high"}])
def test_defaults_that_cannot_be_are_named(settings, monkeypatch, value):
    monkeypatch.setattr("django_jobqueue.checks.declared", {})
    settings.JOBQUEUE_DEFAULTS = value
    assert ids() == ["jobqueue.E015"]


@pytest.mark.once
def test_a_task_that_was_declared_too_early_is_looked_at_again(settings, monkeypatch):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.NotThereYet"]
    early = replace(plain, options={"shelve": 1})
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Shelf"]
    monkeypatch.setattr("django_jobqueue.checks.declared", {bare: early})
    assert ids() == ["jobqueue.E016"]


@pytest.mark.once
def test_a_layer_is_told_of_each_task_once_before_and_after_it_is_made(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Observer"]
    DECLARED.clear()
    project_layers()
    project_layers()
    assert DECLARED.count("tests.tasks.noop") == 1
    made = task(another)
    made.using(priority=3)
    assert DECLARED.count(f"{HERE}.another") == 1


def another():
    pass


@pytest.mark.once
def test_the_names_are_looked_up_once():
    assert owners((f"{HERE}.Shelf",)) is owners((f"{HERE}.Shelf",))
