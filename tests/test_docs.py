"""The documentation is true: nothing public is missing, what it names exists, and its first steps work."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import importlib
import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import termios
import time
import unittest
from argparse import _SubParsersAction
from copy import copy
from dataclasses import asdict, fields, replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import django
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone
from django.utils.module_loading import import_string

import django_jobqueue
from django_jobqueue import (
    backoff,
    checks,
    conf,
    exceptions,
    keys,
    lifecycle,
    middleware,
    models,
    operations,
    stats,
    tracebacks,
)
from django_jobqueue.admin import changelist, job_page, pagination
from django_jobqueue.compat import InvalidTask
from django_jobqueue.dialects import channel, draw
from django_jobqueue.dialects.limits import Limits
from django_jobqueue.dialects.postgresql.limits import PostgreSQLLimits
from django_jobqueue.lifecycle import schedule, waiting
from django_jobqueue.lifecycle.prune import ARCHIVE_BATCH, LIMITS_KEPT
from django_jobqueue.management import reloading
from django_jobqueue.management.bulk import SHOWN
from django_jobqueue.management.commands import jobqueue, runworker
from django_jobqueue.middleware import JobContext, Middleware, chain, log_context, prometheus, rate_limit
from django_jobqueue.middleware.chain import enqueue_through
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.models.pause import HOLD
from django_jobqueue.options import owners as option_owners
from django_jobqueue.outcomes import LONGEST_DELAY, MESSAGE_LENGTH, State
from django_jobqueue.registry import resolve
from django_jobqueue.retention import FOREVER
from django_jobqueue.task import JobTask, declared
from django_jobqueue.worker import (
    announcer,
    children,
    claimer,
    departure,
    follower,
    isolation,
    lanes,
    maintenance,
    pace,
    scheduler,
    stop,
    supervisor,
    wakeup,
)
from django_jobqueue.worker.execution import plan_for

from .models import OldJob
from .worker.workers import drain

synchronise = sys.modules[lifecycle.synchronise.__module__]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "django_jobqueue"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

on_sqlite = pytest.mark.skipif(
    not os.environ.get("DATABASE_URL", "sqlite").startswith("sqlite"),
    reason="the first steps are on SQLite, whatever the other tests run on",
)


def page(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    return [(language, code) for language, code in FENCE.findall(text) if language in languages]


def missing(names, text: str) -> list[str]:
    """The names that the text does not have as code, alone or called or with an argument."""
    return [name for name in names if not re.search(rf"[`.,(/ ]{re.escape(name)}\b", text)]


# -- everything public is documented --------------------------------------------------------------


def test_every_key_of_options_has_a_row():
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", page("reference/settings.md"), re.MULTILINE))
    assert rows == {field.name.upper() for field in fields(conf.Options)}


def test_every_task_option_has_a_row():
    options = {field.name for field in fields(JobTask)} - {"func", "options", "given"}
    table = re.findall(r"^\| `(\w+)` \| .* \| (yes|no|only there) \|", page("reference/task_options.md"), re.MULTILINE)
    assert {name for name, _ in table} == options
    using = set(inspect.signature(JobTask.using).parameters) - {"self", "options"}
    assert {name for name, where in table if where != "no"} == using


def options_of(parser) -> set[str]:
    own = set(BaseCommand().create_parser("manage.py", "x")._option_string_actions)
    return {text for text in parser._option_string_actions if text not in own and text.startswith("--")}


def test_every_command_option_is_documented_and_exists():
    parsers = [module.Command().create_parser("manage.py", "x") for module in (runworker, jobqueue)]
    verbs = next(action for action in parsers[1]._actions if isinstance(action, _SubParsersAction)).choices
    exist = set().union(*map(options_of, [*parsers, *verbs.values()]))
    text = page("reference/commands.md")
    assert set(re.findall(r"--[a-z][a-z-]+", text)) == exist
    assert not missing(verbs, text)


def test_the_defaults_of_runworker_are_those_of_the_code():
    parser = runworker.Command().create_parser("manage.py", "x")
    told = dict(re.findall(r"^\| `(--[a-z-]+) [A-Z]+` \| ([\d.]+) \|", page("reference/commands.md"), re.MULTILINE))
    numbers = {
        action.option_strings[0]: f"{action.default:g}"
        for action in parser._actions
        if action.option_strings and action.option_strings[0] in options_of(parser)
        if isinstance(action.default, int | float) and not isinstance(action.default, bool)
    }
    assert told == numbers and len(told) == 6


def test_every_system_check_has_a_row():
    raised = set(re.findall(r"jobqueue\.[EWI]\d{3}", "".join(path.read_text() for path in PACKAGE.rglob("*.py"))))
    rows = re.findall(r"^\| `(jobqueue\.\w+)` \|", page("reference/checks.md"), re.MULTILINE)
    assert sorted(rows) == sorted(raised)


def test_every_public_name_is_in_the_reference():
    reference = "".join(path.read_text() for path in sorted((DOCS / "reference").glob("*.md")))
    strategies = [name for name, value in vars(backoff).items() if isinstance(value, type) and is_ours(value)]
    errors = [name for name, value in vars(exceptions).items() if isinstance(value, type) and is_ours(value)]
    names = [*django_jobqueue.__all__, *models.__all__, *middleware.__all__, *strategies, *errors]
    assert not missing(names, reference)


def is_ours(value: type) -> bool:
    return value.__module__.startswith("django_jobqueue")


def test_every_hook_and_everything_of_the_context_is_documented():
    assert not missing(public(Middleware), page("reference/middleware.md"))
    given = {field.name for field in fields(JobContext)} - {"stop_reason"}
    assert not missing(given | public(JobContext) - {"stop_reason", "inject"}, page("reference/task_options.md"))


BUILT_IN = [
    layer
    for module in pkgutil.iter_modules(middleware.__path__, "django_jobqueue.middleware.")
    for layer in vars(importlib.import_module(module.name)).values()
    if isinstance(layer, type)
    and issubclass(layer, Middleware)
    and layer.__module__ == module.name != "django_jobqueue.middleware.base"
]


@pytest.mark.parametrize("layer", BUILT_IN, ids=lambda layer: layer.__name__)
def test_every_middleware_that_comes_along_has_a_section_with_its_options(layer):
    section = page("reference/middleware.md").partition(f"### `{layer.__name__}`\n")[2].partition("\n### ")[0]
    assert f"`{layer.__module__}.{layer.__name__}`" in section
    options = section.partition("| Option |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", options, re.MULTILINE))
    assert {name: ast.literal_eval(value) for name, value in rows.items()} == dict(layer.options)


def test_the_numbers_of_the_limits_are_those_of_the_code():
    text = page("reference/middleware.md")
    assert f"at most\n{draw.LONGEST:.0f} seconds at a time" in text
    assert f"every {draw.LONGEST:.0f} seconds at the latest" in " ".join(page("howto/limits.md").split())
    number, on_postgresql = Limits.keys_at_once, PostgreSQLLimits.keys_at_once
    assert f"for up to {number} keys ({on_postgresql} on PostgreSQL)" in page("howto/limits.md")
    parts = (rate_limit.PART, rate_limit.PART_OF_PERIOD, rate_limit.LONGEST_HOLD)
    assert parts == (100, 20, 0.1) and "a hundredth of them" in page("howto/limits.md")
    assert LIMITS_KEPT.days == 2 and "for two days is deleted" in page("reference/models.md")


def public(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def test_every_field_and_word_of_the_models_is_documented():
    text = page("reference/models.md")
    others = (models.Queue, models.Pause, models.Schedule, models.UniqueKey, models.Batch, models.Dependency)
    for model in (models.Job, models.Attempt, models.Worker, *others):
        assert not missing([field.name for field in model._meta.concrete_fields], text), model
    assert not missing([*models.Job.Status.values, *models.Worker.Status.values, *State], text)


def test_operations_are_documented_as_they_are():
    documented = re.findall(r"^\| `(\w+)\((.*)\)` \|", page("reference/models.md"), re.MULTILINE)
    functions = {name for name in operations.__all__ if inspect.isfunction(getattr(operations, name))}
    assert {name for name, _ in documented} == functions
    for name, parameters in documented:
        function = getattr(operations, name)
        assert re.search(r"\b(Return|Raise)\b", function.__doc__), f"{name}: what does it return or raise?"
        signature = inspect.signature(function)
        for parameter in re.findall(r"(\w+)(?:=[^,]*)?", re.sub(r'"\w*"', "", parameters)):
            assert parameter in signature.parameters, f"{name}({parameter})"


def test_fixed_numbers_are_those_of_the_code():
    text = page("reference/settings.md").partition("## Fixed numbers")[2]
    batches = maintenance.PRUNE_BATCHES * lifecycle.prune.__globals__["BATCH"]
    for sentence in (
        f"{conf.LOSSES_TO_ISOLATE} and {conf.LOSSES_TO_FAIL} |",
        f"looks for a job that must run alone | every {isolation.INTERVAL:.0f} s |",
        f"or goes on without | at most {isolation.PATIENCE:.0f} s |",
        f"before the others get their turn | for at most {isolation.STREAK:.0f} s |",
        f"{LONGEST_DELAY / 365 / conf.DAY:.0f} years |",
        f"| for at most {reloading.GRACE:.0f} s |",
        f"at least {claimer.UNKNOWN_DELAY[0]:.0f} s, at most {claimer.UNKNOWN_DELAY[1] / 60:.0f} min",
        f"every {maintenance.REAP_INTERVAL:.0f} s, or a third of the lease",
        f"changed | every {scheduler.INTERVAL:.0f} s |",
        f"rows of schedules with its code | every {scheduler.SYNCHRONISE_INTERVAL:.0f} s |",
        f"that of a living worker | for {synchronise.VOUCHED.total_seconds():.0f} s after its word |",
        f'{schedule.ON_TIME.total_seconds():.0f} s; with `catch_up="none"` the latest, by',
        f"by {schedule.GRACE.total_seconds():.0f} s |",
        f"cannot enqueue is left to others for | {scheduler.PUT_OFF:.0f} s |",
        f"waits for the last job is looked at | every {schedule.RECHECK.total_seconds():.0f} s |",
        f"every {maintenance.PRUNE_INTERVAL:.0f} s, {batches:,} jobs",
        f"Jobs that `ARCHIVE` gets at a time | {ARCHIVE_BATCH} |",
        f"that it has waited, {waiting.SHORTEST:g} s to {waiting.LONGEST:g} s |",
        f"| every {wakeup.LONGEST:.0f} s while it is told of new jobs; otherwise after a tenth of the time",
        f"that it has found nothing, {wakeup.SHORTEST} s to `--poll-interval` |",
        f"every {lanes.INTERVAL} s, but in no more than about a {ORDINALS[lanes.SHARE]} of its time |",
        f"about a {ORDINALS[follower.SHARE]} of its time, or every second |",
        f"wakes idle workers | within {channel.SOON:.0f} s |",
        f"learns of a pause | within {lanes.PATIENCE:.0f} s |",
        f"under the paused key of a rate limit is put off for | at most {HOLD.total_seconds() / 3600:.0f} h |",
        f"look at for one transaction | {lifecycle.portions.BATCH:,} |",
        f"{pace.PREFETCH}, and no more than run in about {pace.PREFETCH_SECONDS} s",
        f"until a worker claims nothing more | {claimer.MAX_UNWRITTEN:,} |",
        f"is interrupted and may end | within {stop.LETTING_GO:.0f} s |",
        f"ended within {children.SETTLED:.0f} s of its registration",
        f"| 1, 2, 4, … s, at most {supervisor.LONGEST_PAUSE:.0f} s,",
        f"| {supervisor.KILL_AFTER:.0f} s after `--shutdown-timeout`",
        f"at least {children.SHORTEST_SILENCE:.0f} s; after it has signed off for {children.LEAVING:.0f} s |",
        f"| {departure.THREADS:.0f} s, and functions of `atexit` at most {departure.LAST_WORDS:.0f} s after",
        f"| {claimer.PATIENCE:.0f} s |",
        f"the first and the last {log_context.KEPT:,} characters |",
        f'from `JOBQUEUE_PROMETHEUS["PORT"]` on | {prometheus.PORTS} |',
        f"{MESSAGE_LENGTH} and {tracebacks.LENGTH:,} characters",
        f"| {tracebacks.FRAMES}; {tracebacks.EXCEPTIONS}; {tracebacks.MESSAGE_LENGTH:,} characters |",
        f"| {announcer.MAX_UNANNOUNCED} |",
    ):
        assert sentence in text


ORDINALS = {20: "twentieth"}
COUNTED = "once twice three four five six seven".split()


def test_every_page_tells_the_same_number_of_losses():
    told = re.compile(r"lost (\w+) times|after (\w+) losses|the (\w+) loss\b|lost for the (\w+)\s+time", re.IGNORECASE)
    ordinals = dict(zip("first second third fourth fifth sixth seventh".split(), COUNTED, strict=True))
    found = {
        ordinals.get(word, word)
        for path in [*PAGES, ROOT / "CHANGELOG.md"]
        for words in told.findall(" ".join(path.read_text().split()))
        for word in map(str.lower, words)
        if word
    }
    assert found == {COUNTED[conf.LOSSES_TO_FAIL - 1]}


def test_the_numbers_of_the_admin_are_those_of_the_code():
    text = page("howto/monitoring.md")
    for number in (changelist.WINDOW, stats.CAP, job_page.SHOWN):
        assert re.search(rf"\b{number:,}\b", text), number


LOOKING_ON = ("error_context.ErrorContext", "log_context.LogContext", "opentelemetry.OpenTelemetry")
LOOKING_ON += ("prometheus.Prometheus", "slow_jobs.SlowJobs")


@pytest.mark.parametrize("path", LOOKING_ON)
def test_the_options_of_a_layer_have_their_defaults(path):
    layer = import_string(f"django_jobqueue.middleware.{path}")
    section = page("reference/middleware.md").partition(f"### `{layer.__name__}`\n")[2].partition("\n### ")[0]
    table = section.partition("| Option |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in rows} == dict(layer.options)
    assert f"`django_jobqueue.middleware.{path}`" in section


def test_the_setting_for_prometheus_is_told_with_its_defaults():
    [told] = re.findall(r"^JOBQUEUE_PROMETHEUS = (\{.*\})$", page("reference/settings.md"), re.MULTILINE)
    assert ast.literal_eval(told) == prometheus.DEFAULTS


def test_every_metric_is_told(db):
    registry = prometheus.CollectorRegistry()
    prometheus.fill(registry)
    metrics = (prometheus.ATTEMPTS, prometheus.RUN, prometheus.WAIT, prometheus.RUNNING)
    families = [*registry.collect(), *(family for metric in metrics for family in metric.collect())]
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert set(re.findall(r"`(jobqueue_\w+)`", page("reference/middleware.md"))) == names


def test_the_house_has_every_module():
    rooms = page("explanation/architecture.md").partition("```text")[2].partition("```")[0]
    folders = [PACKAGE, *(PACKAGE / name for name in "dialects lifecycle management middleware models worker".split())]
    modules = {path.stem for folder in folders for path in folder.glob("*.py")} - {"__init__", "apps"}
    assert not [name for name in sorted(modules) if not re.search(rf"\b{name}\b", rooms)]


# -- what is documented exists --------------------------------------------------------------------


def test_the_tests_that_the_guarantees_name_exist():
    named = re.findall(r"`(test_g\w+)`", page("explanation/guarantees.md"))
    there = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert named
    assert not [name for name in named if f"def {name}(" not in there]


def test_a_guarantee_that_holds_names_its_tests():
    text = page("explanation/guarantees.md")
    for number, today in re.findall(r"^\| (G\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE):
        assert today.startswith("holds") == (f"- **{number}**: `test_" in text), number


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_are_python_and_import_what_exists(path):
    for _, code in blocks(path.read_text(), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django_jobqueue"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "task":
                known = {field.name for field in fields(JobTask)} | options_of_layers(path.read_text())
                assert not [keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg not in known]


def options_of_layers(text: str) -> set[str]:
    """The options of the layers that are built in, and of those that a page writes."""
    for path in (PACKAGE / "middleware").glob("*.py"):
        importlib.import_module(f"django_jobqueue.middleware.{path.stem}")
    built_in = [cls.options for cls in Middleware.__subclasses__() if is_ours(cls)]
    written = [ast.literal_eval(found) for found in re.findall(r"^    options = (\{.*\})$", text, re.MULTILINE)]
    return set().union(*built_in, *written)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_page_recommends_the_same_options_for_sqlite():
    recommended = ast.literal_eval("{" + checks.SQLITE_OPTIONS + "}")["OPTIONS"]
    found = 0
    for path in PAGES:
        for _, code in blocks(path.read_text(), "python"):
            for options in re.findall(r'"OPTIONS": (\{[^{}]*"transaction_mode"[^{}]*\})', code):
                assert ast.literal_eval(options) == recommended, path
                found += 1
    assert found == 4


@pytest.fixture
def written(monkeypatch, settings):
    """The examples of a page, as the module that they say they are, in a project with the settings that it writes."""

    def write(name: str, **helpers: object) -> ModuleType:
        module = ModuleType("shop.tasks")
        vars(module).update(helpers)
        monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
        monkeypatch.setitem(sys.modules, "shop.tasks", module)
        for _, code in blocks((ROOT / name).read_text(), "python"):
            if re.match(r"# (?!(shop/tasks|settings)\.py\n)\S+\.py", code):
                continue  # another module's, or another choice of settings
            exec(code, vars(module))
            for setting in ("JOBQUEUE_MIDDLEWARE", "JOBQUEUE_DEFAULTS"):
                if hasattr(module, setting):
                    setattr(settings, setting, copy(getattr(module, setting)))
        return module

    forget_layers()
    yield write
    forget_layers()


def forget_layers() -> None:
    """The next test's modules have other layers and tasks of the same paths."""
    for cached in (chain.layers, chain._project, option_owners, resolve):
        cached.cache_clear()


@pytest.fixture
def examples(written):
    index = SimpleNamespace(close=lambda: None)
    return written(
        "docs/howto/middleware.md",
        is_sunday=lambda: True,
        is_day=lambda: True,
        here=lambda: "at",
        current_tenant=lambda: "acme",
        make_client=lambda: StringIO("client"),
        open_index=lambda: index,
        prepare_thread=lambda: None,
        Group=Group,
    )


def run_here(task, *args, **kwargs):
    """What the task's chain returns or raises."""
    job = models.Job(args=list(args), kwargs=kwargs, enqueued_at=timezone.now())
    context = JobContext(job=job, task=task, worker=None)
    return plan_for(task).handler(context)


def test_the_examples_of_middleware_do_what_the_page_says(examples):
    assert run_here(examples.greet, "world") == "HELLO WORLD"
    assert run_here(replace(examples.sync_order, middleware=[examples.WithClient]), 1) == [1, "client"]
    assert run_here(replace(examples.sync_order, middleware=[examples.Gauge]), 1, StringIO("own")) == [1, "own"]
    assert examples.Gauge.running == 0
    with pytest.raises(django_jobqueue.Skip, match="Sundays"):
        run_here(replace(examples.greet, middleware=[examples.NotOnSundays]), "world")
    save = enqueue_through([examples.Tenant()], lambda jobs: jobs)
    assert [job.queue_name for job in save([models.Job(queue_name="mail")])] == ["acme-mail"]
    catalogue = examples.Catalogue()
    catalogue.task_declared(examples.greet)
    assert catalogue.names == {"shop.tasks.greet"}


def test_the_options_in_the_examples_are_kept_and_checked(examples):
    assert run_here(examples.offer, "soup") == "offered soup"
    examples.here = lambda: "de"
    with pytest.raises(django_jobqueue.Skip, match="Not in de"):
        run_here(examples.offer, "soup")
    assert run_here(examples.sync_order, 1, StringIO("de is in the settings")) == [1, "de is in the settings"]
    with pytest.raises(InvalidTask, match="two letters"):
        examples.offer.using(countries=["Austria"])
    assert examples.offer.using(countries=None).given == {"countries": None}
    layer = examples.CountriesIfAny()
    assert layer.applies({"countries": ["at"]}.get) and not layer.applies({"countries": None}.get)


def test_the_examples_around_transactions_and_workers_do_what_the_page_says(examples, queue_db, settings):
    told = []
    examples.publish = told.append
    names = "AsUser Logged TellTheDashboard TellOfFailures NoReportsByDay SearchIndex".split()
    settings.JOBQUEUE_MIDDLEWARE = [*settings.JOBQUEUE_MIDDLEWARE, *(f"shop.tasks.{name}" for name in names)]
    anna = get_user_model().objects.create_user("anna")
    shipped = examples.ship.enqueue(7, user_id=anna.pk)
    lost = examples.ship.enqueue(8, user_id=0)
    report = examples.greet.using(queue_name="reports").enqueue("nobody")
    booked = examples.book.enqueue("skiers")
    drain(threads=1)
    jobs = models.Job.objects.in_bulk()
    assert jobs[int(shipped.id)].result == "shipped by anna"
    assert [entry.object_repr for entry in LogEntry.objects.all()] == ["order 7: shipped by anna"]
    assert jobs[int(lost.id)].status == "FAILED"
    assert jobs[int(report.id)].status == "READY", "it is day"
    assert jobs[int(booked.id)].result == "booked" and Group.objects.get().name == "skiers"
    assert {news["state"] for news in told} == {"succeeded", "failed"}
    assert sum(news["state"] == "failed" for news in told) == 2 * examples.TellOfFailures.seen["failed"] == 2


def test_the_schedules_of_the_page_come_and_enqueue_what_it_says(written, queue_db):
    before = set(declared)
    page = written("docs/howto/schedules.md")
    try:
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(page.ReminderTests)
        outcome = unittest.TextTestRunner(stream=StringIO()).run(suite)
        assert outcome.testsRun == 2 and outcome.wasSuccessful(), (outcome.failures, outcome.errors)
        assert lifecycle.synchronise("default") >= {
            "shop.tasks.send_reminders", "shop.tasks.fetch_rates", "dollars for the office",
        }  # fmt: skip
        told = {row.name: row.description for row in models.Schedule.objects.filter(task_path__startswith="shop.")}
        assert told["shop.tasks.send_reminders"] == "At 02:30 every day, Europe/Berlin"
        for row in models.Schedule.objects.filter(name__in=told):
            lifecycle.run_schedule_now(row.pk)
        drain(threads=1)
        results = sorted(job.result.partition(" at ")[0] for job in models.Job.objects.all())
        assert results == ["EUR", "USD", "reminded"]
    finally:
        for function in set(declared) - before:
            del declared[function]


def test_the_examples_of_unique_jobs_do_what_the_page_says(written, queue_db):
    shop = written("docs/howto/unique_jobs.md")
    calls = [shop.rebuild_catalogue.s("en"), shop.send_invoice.s(7), shop.send_invoice.s(7, copy_to="anna")]
    results = [*django_jobqueue.enqueue_many(calls), shop.rebuild_catalogue.enqueue("en")]
    assert results[0].id == results[3].id != results[1].id == results[2].id
    march = shop.send_invoice.using(unique="march")
    assert march.enqueue(1).id == march.enqueue(2).id
    assert shop.send_invoice.using(unique=False).enqueue(7).id != results[1].id
    assert len({shop.dispatch.enqueue(1).id, shop.dispatch.enqueue(1).id, shop.dispatch.enqueue(1, force=True).id}) == 2
    reminded = shop.remind.enqueue(1)
    indexed = [shop.product_saved(1), shop.product_saved(1)]
    assert indexed[0].id == indexed[1].id
    assert models.Job.objects.get(pk=indexed[0].id).is_scheduled
    assert shop.index.enqueue(1).id == indexed[0].id and not models.Job.objects.get(pk=indexed[0].id).is_scheduled
    synchronised = shop.synchronise.enqueue(1)
    models.Job.objects.filter(pk=synchronised.id).update(status="RUNNING")
    behind = shop.synchronise.enqueue(1)
    assert synchronised.id != behind.id == shop.synchronise.enqueue(1).id
    models.Job.objects.filter(pk=synchronised.id).update(status="SUCCESSFUL", finished_at=timezone.now())
    drain(threads=1)
    assert not models.Job.objects.unfinished().exists()
    assert shop.remind.enqueue(1).id == reminded.id
    assert shop.rebuild_catalogue.enqueue("en").id != results[0].id
    assert {*keys.UNTIL, *keys.ON_CONFLICT} == set(re.findall(r'^\| `"(\w+)"` \|', page("howto/unique_jobs.md"), re.M))
    assert f"longer than {keys.KEY_LENGTH} characters is shown cut" in page("howto/unique_jobs.md")


@django_jobqueue.task(middleware=[Concurrency], concurrency=None)
def unlimited():
    return "ran"


def test_the_concurrency_limits_of_the_page_do_what_it_says(written, queue_db, settings):
    shop = written("docs/howto/limits.md")
    reports = [shop.yearly_report.enqueue(year) for year in (2020, 2021, 2022)]
    imports = [shop.import_rows.enqueue(tenant, ["a row"]) for tenant in (7, 7, 7, 7, 8)]
    calls = [shop.book_in.enqueue("tea"), shop.book_out.enqueue("tea")]
    posts = [shop.post.enqueue(1, amount) for amount in (1, 2, 3)]
    later = shop.post.using(run_after=timedelta(hours=1)).enqueue(1, 4)
    free = shop.import_rows.using(concurrency=None).enqueue(7)
    with pytest.raises(ValueError, match="does not fit the call"):
        shop.import_rows.using(concurrency_key="{nobody}").enqueue(7)
    jobs = models.Job.objects.filter(concurrency_key__isnull=False)
    assert jobs.count() == len([*reports, *imports, *calls, *posts, later])
    assert models.Job.objects.get(pk=free.id).status == "READY"
    assert shop.how_it_stands(7) == {"waiting": 4, "in line": 0, "run": 0}
    keys = list(lifecycle.waiting_keys("default"))
    assert keys == ["account-1", "shop.tasks.yearly_report", "tenant-7", "tenant-8", "warehouse"]
    lifecycle.admit(keys, "default")
    assert shop.how_it_stands(7) == {"waiting": 1, "in line": 3, "run": 0}
    assert [jobs.in_line().filter(concurrency_key=key).count() for key in keys] == [1, 2, 3, 1, 1]
    last = models.Job.objects.get(pk=imports[3].id)
    assert str(job_page.JobPage(last).now) in page("howto/limits.md").replace("*", "")
    call_command("jobqueue", "status", stdout=(out := StringIO()))
    assert " 5 waiting" in out.getvalue()
    drain(0, threads=4)
    assert set(jobs.exclude(pk=later.id).values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert models.Job.objects.get(pk=later.id).is_scheduled
    order = models.Attempt.objects.filter(job_id__in=[post.id for post in posts]).order_by("started_at", "finished_at")
    assert list(order.values_list("job_id", flat=True)) == [int(post.id) for post in posts]
    assert models.Attempt.objects.count() == len([*reports, *imports, *calls, *posts, free]), "none to wait"
    for told in re.findall(r'`(\{"concurrency": .*?\})`', page("howto/limits.md")):
        settings.JOBQUEUE_DEFAULTS = ast.literal_eval(told)
        assert models.Job.objects.get(pk=refund.enqueue(1).id).concurrency_key == "project"
        assert models.Job.objects.get(pk=unlimited.enqueue().id).status == "READY"


def test_a_job_in_line_where_nobody_claims_keeps_its_slot_as_the_page_of_limits_says(written, queue_db):
    shop = written("docs/howto/limits.md")
    held = shop.book_in.enqueue("tea")
    lifecycle.pause("warehouse")
    lifecycle.admit(["warehouse"], "default")
    other = shop.book_out.using(queue_name="default").enqueue("tea")
    drain(0)
    assert made([models.Job(pk=int(one.id)) for one in (held, other)]) == ["READY", "WAITING"]
    lifecycle.pause(key="warehouse")
    lifecycle.resume(key="warehouse")
    lifecycle.resume("warehouse")
    drain(0)
    assert made([models.Job(pk=int(one.id)) for one in (held, other)]) == ["SUCCESSFUL"] * 2


def test_tenants_of_the_page_of_limits_take_turns(written, queue_db):
    shop = written("docs/howto/limits.md")
    django_jobqueue.enqueue_many([shop.import_rows.s("big") for _ in range(100)])
    django_jobqueue.enqueue_many([shop.import_rows.s("small") for _ in range(10)])
    lifecycle.admit(["tenant-big", "tenant-small"], "default")
    assert models.Job.objects.in_line().count() == 6, "three of each"
    drain(0, threads=4)
    assert len(order := in_order_of_their_starts()) == 110 and "tenant-small" not in order[60:]


def in_order_of_their_starts() -> list[str]:
    attempts = models.Attempt.objects.order_by("started_at", "finished_at")
    return list(attempts.values_list("job__concurrency_key", flat=True))


def test_fair_tenants_of_the_page_of_limits_take_turns_by_their_slots(written, queue_db):
    shop = written("docs/howto/limits.md")
    for number in range(60):
        shop.convert_for_a_large_customer("large", f"{number}.png")
    django_jobqueue.enqueue_many([shop.convert_image.s("small", f"{number}.png") for number in range(20)])
    drain(0, threads=1)
    order = in_order_of_their_starts()
    assert len(order) == 80 and 11 <= order[10:70].count("tenant-small") <= 19, "two of eight"


def test_the_rate_limits_of_the_page_do_what_it_says(written, queue_db):
    shop = written("docs/howto/limits.md")
    slow = shop.send_receipt.using(rate_limit="100/d")  # as the page's, but with time to look
    receipts = [slow.enqueue(number) for number in range(12)]
    stock = shop.fetch_stock.enqueue(1)
    assert models.Job.objects.get(pk=stock.id).concurrency_key == "shop-1"
    drain(0)
    assert made([models.Job(pk=int(one.id)) for one in receipts]).count("SUCCESSFUL") == 10
    early = models.Job.objects.scheduled()
    assert list(early.values_list("tries", "attempts")) == [(0, 1)] * 2
    assert models.Attempt.objects.filter(outcome="snoozed").count() == 2
    assert models.Job.objects.get(pk=stock.id).status == "SUCCESSFUL"


def test_the_examples_for_those_who_move_over_do_what_they_say(written, queue_db, settings):
    notes = []
    moved = written(
        "docs/howto/coming_from.md",
        note=lambda *words: notes.append(words),
        open_account=lambda number: f"account {number}",
    )
    # each section is a module of its own; their tasks have different names, and so have their layers
    settings.JOBQUEUE_MIDDLEWARE = []
    calls = {
        moved.resize: ("a.png",),
        moved.import_row: (1,),
        moved.ping: ("host",),
        moved.transfer: (7, 20),
        moved.digest: (True,),
    }
    results = {task.name: task.enqueue(*args) for task, args in calls.items()}
    quiet = moved.resize.using(metered=False).enqueue("b.png")
    waits = moved.digest.enqueue(False)
    assert moved.plan_digest(1).id == moved.plan_digest(1).id != moved.plan_digest(2).id
    settings.JOBQUEUE_MIDDLEWARE = ["shop.tasks.Signals"]
    results["charge"] = moved.charge.enqueue(21)
    drain(threads=1)
    jobs = models.Job.objects.in_bulk()
    found = {name: jobs[int(result.id)].result for name, result in results.items()}
    assert found == {
        "resize": "A.PNG", "import_row": 2, "ping": None, "transfer": {"booked": "20 on account 7"},
        "digest": "sent", "charge": 42,
    }  # fmt: skip
    assert jobs[int(quiet.id)].result == "B.PNG" and notes.count(("begins", "resize")) == 1
    assert [jobs[int(result.id)].status for result in (results["ping"], waits)] == ["READY", "READY"]
    assert {("import_row", "async"), ("import_row", True), ("after", "succeeded"), ("after", "snoozed")} <= set(notes)
    assert notes.count(("publish", 1)) == 1 and ("succeeded", "charge") in notes


def test_the_examples_of_chains_do_what_the_page_says(written, queue_db):
    examples = written("docs/howto/chains.md")
    two_id, batch_id = examples.count_two()
    partly = examples.count_what_can_be_counted(["a", object.__name__])
    complained = examples.count_or_complain("c")
    both = examples.after_both()
    crawled = examples.crawl_all("d")
    drain()
    jobs = models.Job.objects.in_bulk()

    def result(one):
        return jobs[int(getattr(one, "id", one))].result

    assert result(two_id) == "published 2" and models.Batch.objects.get(pk=batch_id).name == "count"
    assert result(partly[-1]) == ["page of a", "page of object"]
    assert [jobs[int(one.id)].status for one in complained] == ["SUCCESSFUL", "SUCCESSFUL", "CANCELLED", "SUCCESSFUL"]
    assert result(both) == "both are there"
    assert sorted(result(crawled[-1])) == ["d", "d/a", "d/b"]
    assert examples.stop(batch_id) == (5, 5)


def options_of_page(name: str) -> list[conf.Options]:
    """The OPTIONS that a page writes into the settings."""
    found = []
    for _, code in blocks(page(name), "python"):
        if code.startswith("# mysite/settings.py"):
            exec(code, written := {})
            found.append(conf.Options.read(written["TASKS"]["default"]["OPTIONS"]))
    return found


def test_the_examples_of_retention_do_what_the_page_says(written, queue_db, settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "shop.models", SimpleNamespace(OldJob=OldJob))
    shop = written("docs/howto/retention.md")
    shop.ARCHIVE_FILE = tmp_path / "jobs.jsonl"
    calls = [shop.pay_invoice.s(7), shop.make_thumbnail.s("a.png"), shop.export_orders.s(3)]
    results = django_jobqueue.enqueue_many([*calls, shop.pay_invoice.using(keep=None).s(8)])
    drain()
    jobs = [models.Job.objects.get(pk=result.id) for result in results]
    kept = [job.prune_at and round((job.prune_at - job.finished_at).total_seconds() / conf.DAY, 2) for job in jobs]
    assert kept == [90, 0.04, None, FOREVER / conf.DAY]
    assert round((jobs[2].result_until - jobs[2].finished_at).total_seconds()) == 600
    retention, archive = options_of_page("howto/retention.md")
    assert retention.retentions == {"SUCCESSFUL": conf.DAY, "FAILED": 30 * conf.DAY, "CANCELLED": None}
    assert import_string(archive.archive) is shop.archive

    models.Job.objects.update(prune_at=timezone.now())
    assert lifecycle.prune(None, archive=lambda jobs: (shop.archive(jobs), shop.append_to_file(jobs))) == 4
    assert set(OldJob.objects.values_list("number", "status")) == {(job.pk, "SUCCESSFUL") for job in jobs}
    assert OldJob.objects.first().outcomes == ["succeeded"]
    lines = [json.loads(line) for line in shop.ARCHIVE_FILE.read_text().splitlines()]
    assert {line["call"] for line in lines} >= {"pay_invoice(7)", 'make_thumbnail("a.png")'}


@pytest.fixture
def control_page(written):
    return written("docs/howto/control.md")


def made(jobs: list[models.Job]) -> list[str]:
    """Where the jobs stand now."""
    by_id = models.Job.objects.in_bulk([job.pk for job in jobs])
    return [by_id[job.pk].status for job in jobs]


def test_the_pauses_and_changes_of_the_control_page_do_what_it_says(control_page, queue_db, capsys):
    mail = control_page.send_receipt.enqueue(1)
    theirs, others = control_page.import_rows.enqueue(7, []), control_page.import_rows.enqueue(8, [])
    control_page.stop_the_mail()
    control_page.stop(7)
    drain(0)
    jobs = list(models.Job.objects.filter(pk__in=[mail.id, theirs.id, others.id]).order_by("pk"))
    assert made(jobs) == ["READY", "WAITING", "SUCCESSFUL"]
    control_page.go_on(7)
    drain(0)
    assert made(jobs) == ["SUCCESSFUL"] * 3
    for number in (7, 7, 8):
        control_page.import_rows.enqueue(tenant_id=number, rows=[])
    lost = models.Job.objects.get(pk=control_page.send_receipt.enqueue(1).id)
    models.Job.objects.filter(pk=lost.pk).update(status="FAILED", finished_at=timezone.now())
    assert control_page.after_the_outage() == 1
    assert control_page.make_room_for_others(7) == 2
    assert set(models.Job.objects.filter(queue_name="slow").values_list("priority", flat=True)) == {-10}
    assert control_page.not_before("slow", timezone.now() + timedelta(hours=1)) == 2
    assert control_page.drop("slow").cancelled == 2
    assert capsys.readouterr().out.split()[-1] == "2"


def test_the_commands_and_numbers_of_the_control_page_are_true(control_page, queue_db):
    text = page("howto/control.md")
    commands = re.findall(r"^\$ python manage.py jobqueue (.*)$", text, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        out = StringIO()
        call_command("jobqueue", *command.split(), "--dry-run", stdout=out)
        assert out.getvalue().startswith("0 jobs would be")
    assert f"shows the first {COUNTED_ON[SHOWN]}" in text and lifecycle.portions.BATCH == 1000
    assert pagination.CappedPaginator.cap == 10_000 and timedelta(hours=1) == HOLD


COUNTED_ON = {5: "five"}


@django_jobqueue.task
def refund(order_id, user=None):
    return f"{order_id} for {user}"


@django_jobqueue.task
async def arefund(order_id, user=None):
    if order_id < 0:
        raise ValueError("no such order")
    return f"{order_id} for {user}"


def test_the_middleware_in_the_readme_does_what_it_says(written, queue_db, settings, monkeypatch, caplog):
    examples = blocks((ROOT / "README.md").read_text(), "python")
    (code,) = (code for _, code in examples if code.startswith("# shop/middleware.py"))
    (chosen,) = (code for _, code in examples if "JOBQUEUE_MIDDLEWARE" in code)
    body = code.partition("class Audit")[2].splitlines()
    assert sum(bool(line.strip()) for line in body) <= 20, "as the title says"
    module, project = ModuleType("shop.middleware"), {}
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.middleware", module)
    exec(code, vars(module))
    exec(chosen, project)
    settings.JOBQUEUE_MIDDLEWARE = project["JOBQUEUE_MIDDLEWARE"]
    anna = get_user_model().objects.create_user("anna")
    calls = [refund.using(user_id=anna.pk).s(1), arefund.using(user_id=anna.pk).s(2), refund.s(3), arefund.s(4)]
    failing = arefund.using(user_id=anna.pk).s(-1)
    results = django_jobqueue.enqueue_many([*calls, failing])
    with caplog.at_level("INFO", "shop"):
        drain()
    jobs = models.Job.objects.in_bulk()
    assert [jobs[int(result.id)].result for result in results] == [
        "1 for anna", "2 for anna", "3 for None", "4 for None", None,
    ]  # fmt: skip
    history = {entry.object_repr for entry in LogEntry.objects.filter(user=anna)}
    assert history == {"refund(1): succeeded", "arefund(2): succeeded", "arefund(-1): failed"}
    assert sum("took 0." in record.getMessage() for record in caplog.records if record.name == "shop") == 5


def test_the_numbers_that_are_worth_an_alarm_are_there(queue_db):
    lifecycle.pause("mail")
    numbers = json.loads(json.dumps(asdict(stats.overview()), default=str))
    paths = re.findall(r"\| `((?:queues\[\]|workers|totals)\.[\w.]+)`", page("howto/monitoring.md"))
    assert len(paths) == 5
    for path in paths:
        value = numbers
        for name in path.split("."):
            value = value[name[:-2]][0] if name.endswith("[]") else value[name]


# -- the first steps work -------------------------------------------------------------------------

DOCTEST = """
import doctest, sys, django
django.setup()
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, "page", None, 0)
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
runner.run(test)
sys.exit(bool(runner.failures))
"""


class Reader:
    """Somebody who does what a page says, word for word, in an empty directory.

    A ``python`` block whose first line is a comment with a path is appended to that file; a ``pycon`` block is typed
    into a shell, and its answers are compared; the commands of a ``console`` block are run, and the lines below a
    command must be in what it prints.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        left_out = {"DJANGO_SETTINGS_MODULE", "DATABASE_URL", "JOBQUEUE_TEST_DATABASE", "PYTHONPATH"}
        self.env = {name: value for name, value in os.environ.items() if name not in left_out}
        self.env |= {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}

    def follow(self, text: str) -> None:
        for language, code in blocks(text, "python", "pycon", "console"):
            getattr(self, language)(code)

    def python(self, code: str) -> None:
        found = re.match(r"# (\S+\.py)(, on Django 5\.2 only)?\n", code)
        if found and not (found[2] and django.VERSION >= (6, 0)):
            with (self.place / found[1]).open("a") as file:
                file.write(f"\n\n{code}")

    def pycon(self, code: str) -> None:
        self.run(["-c", DOCTEST], input=code, env={**self.env, "DJANGO_SETTINGS_MODULE": "mysite.settings"})

    def console(self, code: str) -> None:
        for command, expected in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", code, re.MULTILINE):
            words = command.partition(" #")[0].split()
            if words[0] == "django-admin":
                self.run(["-m", "django", *words[1:]])
            elif words[0] == "python" and words[2] == "runworker" and "--drain" not in words:
                self.work(words[1:])
            elif words[0] == "python":
                printed = self.run(words[1:])
                assert expected.strip() in printed

    def run(self, args: list[str], **options) -> str:
        options = {"env": self.env, "stdin": None if "input" in options else subprocess.DEVNULL, **options}
        done = subprocess.run(
            [sys.executable, *args], cwd=self.place, text=True, capture_output=True, timeout=60, **options
        )
        assert done.returncode == 0, f"{' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def work(self, args: list[str]) -> None:
        """Start a worker in a terminal of its own, wait until all jobs have ended, and press Ctrl-C."""
        keyboard, terminal = os.openpty()
        with (self.place / "worker.log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, *args],
                cwd=self.place,
                env=self.env,
                stdin=terminal,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
            os.close(terminal)
            try:
                end = time.monotonic() + 60
                while self.unfinished():
                    assert worker.poll() is None and time.monotonic() < end, (self.place / "worker.log").read_text()
                os.write(keyboard, b"\x03")
                worker.wait(20)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
                os.close(keyboard)
        assert "Traceback" not in (self.place / "worker.log").read_text()

    def unfinished(self) -> int:
        totals = json.loads(self.run(["manage.py", "jobqueue", "status", "--json"]))["totals"]
        return sum(totals[word]["number"] for word in ("ready", "scheduled", "running"))


@on_sqlite
@pytest.mark.processes
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_first_steps_work_word_for_word(name, tmp_path):
    Reader(tmp_path).follow((ROOT / name).read_text())


@on_sqlite
@pytest.mark.processes
@pytest.mark.timeout(120)
def test_the_ways_to_test_work(tmp_path):
    reader = Reader(tmp_path)
    reader.run(["-m", "django", "startproject", "mysite", "."])
    reader.run(["manage.py", "startapp", "shop"])
    for _, code in blocks((ROOT / "README.md").read_text(), "python"):
        reader.python(code)
    (tmp_path / "shop" / "checkout.py").write_text(
        "from .tasks import send_receipt\n\n\ndef checkout(order_id):\n    send_receipt.enqueue(order_id)\n"
    )
    tests = 0  # on the page
    for number, (_, code) in enumerate(blocks(page("howto/testing.md"), "python")):
        tests += len(re.findall(r"def test_", code))
        if django.VERSION < (6, 0):
            code = code.replace('"django.tasks.', '"django_tasks.')  # as the page says
        (tmp_path / "shop" / f"test_{number}.py").write_text(code)
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:  # as the page says
        settings.write('\nDATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}\n')
    assert f"Found {tests} test(s)" in reader.run(["manage.py", "test"])
