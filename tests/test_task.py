"""@task, .using(), .s() and finding a task by its path."""

import importlib
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone

from django_jobqueue import enqueue_many, task
from django_jobqueue.backoff import Fixed
from django_jobqueue.compat import InvalidTask, Task
from django_jobqueue.exceptions import UnknownTask
from django_jobqueue.registry import effective, is_async, resolve
from django_jobqueue.task import Call, JobTask

from .tasks import add, async_add, noop


def bare():
    pass


@task(
    queue_name="mail",
    priority=10,
    max_attempts=5,
    backoff=2.0,
    timeout=timedelta(seconds=30),
    retry_on=[ConnectionError, TimeoutError],
    give_up_on=ValueError,
    middleware=["tests.middleware.test_chain.First"],
)
def full(order_id, copy=False):
    return order_id


# -- declaring ------------------------------------------------------------------------------------


def test_a_task_is_djangos_task_and_ours():
    assert isinstance(noop, Task) and isinstance(noop, JobTask)
    assert noop.call() is None and full.call(42) == 42


def test_options_are_kept():
    assert (full.queue_name, full.priority, full.backend) == ("mail", 10, "default")
    assert (full.max_attempts, full.backoff, full.timeout) == (5, 2.0, 30.0)
    assert full.retry_on == (ConnectionError, TimeoutError) and full.give_up_on == (ValueError,)
    assert full.middleware == ("tests.middleware.test_chain.First",)


def test_what_a_task_does_not_say_comes_from_elsewhere():
    made = task(bare)
    assert (made.max_attempts, made.backoff, made.timeout) == (None, None, None)
    assert made.retry_on == made.give_up_on == made.middleware == ()
    assert effective(made, "max_attempts", 7) == 7 and effective(full, "max_attempts", 7) == 5
    assert effective(SimpleNamespace(), "max_attempts", 7) == 7, "a plain Django task has none of our options"


def test_tasks_can_be_hashed_and_compared_even_when_declared_with_lists():
    assert hash(full) == hash(replace(full)) and full == replace(full)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1 to 32767, not 0"),
        ({"max_attempts": 40_000}, "max_attempts"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"backoff": -1}, "backoff must not be negative"),
        ({"backoff": "soon"}, "backoff must be"),
        ({"retry_on": ["ConnectionError"]}, "retry_on must list exception classes, but has 'ConnectionError'"),
        ({"retry_on": "ConnectionError"}, "retry_on"),
        ({"give_up_on": [int]}, "give_up_on"),
        ({"give_up_on": [ValueError()]}, "give_up_on"),
        ({"priority": 101}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"priority": True}, "priority"),
        ({"queue_name": ""}, "queue_name"),
        ({"queue_name": "q" * 101}, "queue_name"),
    ],
)
def test_an_option_that_cannot_be_is_refused_when_the_task_is_declared(options, words):
    with pytest.raises(InvalidTask, match=words):
        task(**options)(bare)


def test_the_message_names_the_task():
    with pytest.raises(InvalidTask, match=r"tests\.test_task\.bare: max_attempts"):
        task(max_attempts=0)(bare)


def test_an_unknown_option_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(
        TypeError, match=r"@task has priority, .* max_attempts, backoff.*; there is no option 'retries'"
    ):
        task(retries=3)(bare)


def test_a_time_to_start_at_is_no_option_of_the_declaration():
    with pytest.raises(TypeError, match=r"\.using\(run_after"):
        task(run_after=timezone.now())(bare)


def test_an_option_that_does_not_exist_is_refused_under_a_foreign_backend_too(settings):
    path = "django.tasks" if "django_tasks" not in sys.modules else "django_tasks"
    settings.TASKS = {"default": {"BACKEND": f"{path}.backends.dummy.DummyBackend"}}
    assert task(max_attempts=3, timeout=5, priority=7)(bare).priority == 7
    with pytest.raises(TypeError, match="no option"):
        task(retries=3)(bare)


# -- using ----------------------------------------------------------------------------------------


def test_using_changes_a_copy():
    at = timezone.now() + timedelta(days=1)
    changed = full.using(priority=-5, queue_name="slow", run_after=at, max_attempts=9)
    assert (changed.priority, changed.queue_name, changed.run_after, changed.max_attempts) == (-5, "slow", at, 9)
    assert (full.priority, full.queue_name, full.run_after, full.max_attempts) == (10, "mail", None, 5)
    assert changed.timeout == 30.0 and changed.retry_on == full.retry_on


def test_using_keeps_what_it_is_not_told():
    assert full.using() == full
    assert full.using(priority=0).priority == 0, "zero is a value"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_attempts": 0}, InvalidTask),
        ({"priority": 500}, InvalidTask),
        ({"run_after": timedelta(seconds=-1)}, InvalidTask),
        ({"run_after": "tomorrow"}, InvalidTask),
        ({"run_after": timedelta.max}, InvalidTask),
        ({"queue_name": ""}, InvalidTask),
        ({"timeout": -3}, InvalidTask),
        ({"retries": 3}, TypeError),
    ],
)
def test_using_refuses_what_cannot_be(options, error):
    with pytest.raises(error):
        full.using(**options)


# -- calls ----------------------------------------------------------------------------------------


def test_a_call_is_a_value():
    call = full.s(42, copy=True)
    assert call == Call(full, (42,), {"copy": True})


@pytest.mark.django_db
def test_calls_of_several_backends_may_stand_in_one_list(settings):
    ours = "django_jobqueue.backend.JobQueueBackend"
    path = "django.tasks" if "django_tasks" not in sys.modules else "django_tasks"
    settings.TASKS = {
        "default": {"BACKEND": ours},
        "second": {"BACKEND": ours, "OPTIONS": {"MAX_ATTEMPTS": 4}},
        "now": {"BACKEND": f"{path}.backends.immediate.ImmediateBackend"},
    }
    calls = [add.s(1, 1), add.using(backend="second").s(2, 2), add.using(backend="now").s(3, 3), add.s(4, 4)]
    results = enqueue_many(calls)
    assert [result.args for result in results] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert [result.backend for result in results] == ["default", "second", "now", "default"]
    assert results[2].return_value == 6


# -- by path --------------------------------------------------------------------------------------


def test_a_task_is_found_by_its_path():
    assert resolve("tests.tasks.add") is add
    assert resolve("tests.tasks.add") is add


@pytest.mark.parametrize(
    "path",
    [
        "tests.tasks.missing",
        "tests.tasks.Broken",
        "tests.tasks.asyncio.run",
        "tests.tasks.add.func",
        "tests.no_such_module.add",
        "no.such.package.task",
        "os.system",
        "builtins.eval",
        "add",
        "",
        ".",
        "..",
        "tests.tasks.",
        "tests..tasks.add",
        "../../etc/passwd.x",
        "ünï.cödé",
        "a" * 255,
    ],
)
def test_g16_what_is_no_task_is_unknown(path):
    with pytest.raises(UnknownTask):
        resolve(path)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module that anybody could import."""
    name = f"foreign_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from django_jobqueue import task\nIMPORTED = True\n\n@task\ndef hidden():\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)
    resolve.cache_clear()


def test_g16_a_row_naming_a_foreign_module_imports_nothing(foreign):
    with pytest.raises(UnknownTask):
        resolve(f"{foreign}.hidden")
    assert foreign not in sys.modules


def test_a_foreign_module_that_the_project_has_imported_counts(foreign):
    __import__(foreign)
    assert resolve(f"{foreign}.hidden").name == "hidden"


def test_a_module_of_an_installed_app_is_imported_for_its_tasks(tmp_path, monkeypatch):
    import tests

    (tmp_path / "late_tasks.py").write_text("from django_jobqueue import task\n\n@task\ndef late():\n    pass\n")
    monkeypatch.setattr(tests, "__path__", [*tests.__path__, str(tmp_path)])
    try:
        assert resolve("tests.late_tasks.late").name == "late"
    finally:
        sys.modules.pop("tests.late_tasks", None)
        resolve.cache_clear()


def test_kinds():
    assert is_async(async_add) and not is_async(add)


def test_a_strategy_may_be_a_tasks_backoff():
    assert task(backoff=Fixed(3))(bare).backoff == Fixed(3)


half_way, go_on = threading.Event(), threading.Event()


def test_g8_a_task_is_known_while_another_thread_imports_its_module(tmp_path, monkeypatch):
    """Two threads of a worker that meet the first job of a task: to the second one it would be unknown, and put off."""
    (tmp_path / "slowly_imported.py").write_text(
        "import threading\nfrom django_jobqueue import task\n"
        "import tests.test_task as here\nhere.half_way.set()\nhere.go_on.wait(20)\n"
        "@task\ndef needed():\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importer = threading.Thread(target=importlib.import_module, args=["slowly_imported"])
    importer.start()
    try:
        assert half_way.wait(20) and not hasattr(sys.modules["slowly_imported"], "needed")
        threading.Timer(0.3, go_on.set).start()
        assert resolve("slowly_imported.needed").name == "needed"
    finally:
        go_on.set()
        importer.join(20)
        resolve.cache_clear()
        sys.modules.pop("slowly_imported", None)
