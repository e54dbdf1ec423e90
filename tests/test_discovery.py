"""Which modules have tasks: packages, a setting, and what becomes of those that fail."""

import ast
import importlib
import logging
import sys
import threading
from textwrap import dedent

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from django_jobqueue import checks, discovery
from django_jobqueue.admin.schedule_form import exposed_tasks
from django_jobqueue.discovery import discover, overlooked
from django_jobqueue.registry import resolve
from django_jobqueue.task import declared

pytestmark = pytest.mark.once

TASK = "from django_jobqueue import cron, task\n\n@task(schedule=cron('0 3 * * *'))\ndef {}(): pass\n"


@pytest.fixture
def project(settings, tmp_path, monkeypatch):
    """Write files of apps, and install these."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "_told", set())
    there, known = set(sys.modules), dict(declared)

    def write(*apps: str, **files: str):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        for app in apps:
            for folder in [tmp_path / app, *(item for item in (tmp_path / app).rglob("*") if item.is_dir())]:
                (folder / "__init__.py").touch()
        importlib.invalidate_caches()
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, *apps]

    yield write
    for name in set(sys.modules) - there:
        if name.partition(".")[0] in ("shop", "legacy", "plugins", "site-packages"):
            del sys.modules[name]
    for func in declared.keys() - known.keys():
        del declared[func]
    resolve.cache_clear()


def warnings() -> list:
    return [message for message in checks.check_installation() if message.id.startswith("jobqueue.W03")]


def test_the_modules_of_a_package_are_found_too(project):
    project(
        "shop",
        shop__tasks__mail=TASK.format("send"),
        shop__tasks__images__large=TASK.format("resize"),
        shop__tasks__test_mail="raise AssertionError('a test is no task')",
        shop__tasks__tests__more="raise AssertionError('a test is no task')",
    )
    found = discover()
    assert {"shop.tasks", "shop.tasks.mail", "shop.tasks.images", "shop.tasks.images.large"} <= set(found.modules)
    assert found.failures == [] and warnings() == []
    assert {"shop.tasks.mail.send", "shop.tasks.images.large.resize"} <= set(exposed_tasks())


def test_the_setting_names_modules_of_each_app_and_whole_paths(project, settings):
    project("shop", shop__jobs=TASK.format("nightly"), plugins__mail__work=TASK.format("send"))
    assert resolve_fails("plugins.mail.work.send")
    settings.JOBQUEUE_TASK_MODULES = ["jobs", "plugins.mail"]
    assert set(discover().modules) == {"shop.jobs", "plugins.mail", "plugins.mail.work"}
    assert resolve("plugins.mail.work.send").name == "send"
    assert warnings() == []


def resolve_fails(path: str) -> bool:
    try:
        resolve(path)
    except LookupError:
        return True
    return False


def test_a_name_that_no_app_has_is_worth_a_warning(project, settings):
    settings.JOBQUEUE_TASK_MODULES = ["tasks", "jbos"]
    (message,) = warnings()
    assert message.id == "jobqueue.W034" and "'jbos'" in message.msg


@pytest.mark.parametrize("setting", ["JOBQUEUE_TASK_MODULES", "JOBQUEUE_TASK_MODULES_EXCLUDE"])
@pytest.mark.parametrize("value", ["tasks", [3], ["shop/jobs"], [""], None])
def test_the_settings_are_lists_of_names(settings, setting, value):
    setattr(settings, setting, value)
    (message,) = [message for message in checks.check_installation() if message.id == "jobqueue.E031"]
    assert setting in message.msg
    with pytest.raises(ImproperlyConfigured, match=setting):
        discover()


# -- modules that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("from celerry import shared_task", "ModuleNotFoundError: No module named 'celerry'"),
        ("import sys\nsys.exit('not here')", "SystemExit: not here"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError", "RuntimeError"),
    ],
)
def test_a_module_that_fails_is_named_and_passed_over(project, settings, caplog, text, reason):
    project("legacy", "shop", legacy__tasks=TASK.format("half") + text, shop__tasks=TASK.format("whole"))
    with caplog.at_level(logging.WARNING, "django_jobqueue"):
        found = discover()
        discover()
    assert [failure.module for failure in found.failures] == ["legacy.tasks"] and "shop.tasks" in found.modules
    (record,) = caplog.records
    assert f"legacy.tasks cannot be imported: {reason}" in record.message and record.levelname == "ERROR"
    assert bool(record.exc_info) is ("celerry" not in text), "a fault of the project's own code has its traceback"
    assert "'legacy.tasks' into JOBQUEUE_TASK_MODULES_EXCLUDE" in record.message
    (message,) = warnings()
    assert message.id == "jobqueue.W032" and reason in message.msg
    assert "legacy.tasks.half" not in exposed_tasks() and "shop.tasks.whole" in exposed_tasks()
    assert not [task for task in declared.values() if task.name == "half"], "what was declared before it failed"

    settings.JOBQUEUE_TASK_MODULES_EXCLUDE = ["legacy", "tests.journeys"]
    assert discover().failures == [] and warnings() == []


def test_a_module_that_is_mended_is_found_at_the_next_look(project):
    project("shop", shop__tasks="raise RuntimeError('half a deploy')")
    assert discover().failures
    project(shop__tasks=TASK.format("whole"))
    assert resolve("shop.tasks.whole").name == "whole"
    assert discover().failures == []


def test_a_module_of_another_distribution_that_fails_takes_one_line(project, caplog, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    (tmp_path / "site-packages/legacy").mkdir(parents=True)
    (tmp_path / "site-packages/legacy/__init__.py").touch()
    (tmp_path / "site-packages/legacy/tasks.py").write_text("import celerry")
    project()
    importlib.invalidate_caches()
    from django.test import modify_settings

    with modify_settings(INSTALLED_APPS={"append": "legacy"}):
        discover()
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.exc_info is None and "celerry" in record.message


# -- schedules that no worker would see -----------------------------------------------------------


def test_a_schedule_in_a_module_that_nobody_imports_is_named(project, settings):
    project("shop", shop__jobs=TASK.format("nightly"), shop__deep__er=TASK.format("hourly"))
    assert {"shop.jobs", "shop.deep.er"}.isdisjoint(sys.modules)
    assert [message.id for message in warnings()] == ["jobqueue.W033"] * 2
    assert overlooked(discover()) == ["shop.deep.er.hourly", "shop.jobs.nightly"]
    assert {"shop.jobs", "shop.deep.er"}.isdisjoint(sys.modules), "it was told from the text"
    settings.JOBQUEUE_TASK_MODULES = ["tasks", "jobs"]
    settings.JOBQUEUE_TASK_MODULES_EXCLUDE = ["tests.journeys", "shop.deep"]
    assert warnings() == []


def test_a_schedule_in_a_module_that_something_else_has_imported_is_named(project):
    project(
        "shop",
        shop__views=TASK.format("hourly").replace("schedule=cron('0 3 * * *')", "**{'schedule': cron('0 3 * * *')}"),
    )
    importlib.import_module("shop.views")
    assert overlooked(discover()) == ["shop.views.hourly"]


@pytest.mark.parametrize(
    "text", [TASK.format("far") + "\nx = " + "-" * 100_000 + "1\n", TASK + "\nx = " + "(" * 1000, "\0" + TASK]
)
def test_a_file_that_cannot_be_parsed_brings_no_hint_and_stops_nobody(project, text):
    project("shop", shop__jobs=TASK.format("nightly"), shop__odd=text)
    assert overlooked(discover()) == ["shop.jobs.nightly"]


def test_workers_that_start_at_once_in_threads_do_not_stumble_over_the_parser(project):
    """Python's parser was not made for threads before 3.12: it raises SystemError now and then."""
    project("shop", **{f"shop__jobs{n}": TASK.format("nightly") + f"x = [{n}, 2]\n" * 500 for n in range(20)})
    found, answers, interval = discover(), [], sys.getswitchinterval()
    threads = [threading.Thread(target=lambda: answers.append(overlooked(found))) for _ in range(3)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert answers == [sorted(f"shop.jobs{n}.nightly" for n in range(20))] * 3


def test_the_parser_is_asked_again_when_somebody_elses_thread_was_in_the_way(project, monkeypatch):
    project("shop", shop__jobs=TASK.format("nightly"))
    parse, errors = ast.parse, iter([SystemError("AST constructor recursion depth mismatch")] * 2)

    def stumbling(*args, **options):
        for error in errors:
            raise error
        return parse(*args, **options)

    monkeypatch.setattr(ast, "parse", stumbling)
    assert overlooked(discover()) == ["shop.jobs.nightly"]


def test_what_the_modules_of_tasks_import_is_imported_by_workers(project):
    project("shop", shop__tasks="from .jobs import nightly", shop__jobs=TASK.format("nightly"))
    assert warnings() == []


@pytest.mark.django_db
def test_the_operators_command_knows_them_all(project, capsys):
    project("shop", shop__tasks__mail=TASK.format("send"))
    call_command("jobqueue", "status")
    assert "shop.tasks.mail" in sys.modules
