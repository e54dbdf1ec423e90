"""Locale: language and time zone travel with the job."""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context, ContextVar
from datetime import timedelta
from datetime import timezone as fixed
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone, translation

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.middleware import locale
from django_jobqueue.middleware.chain import compose
from django_jobqueue.middleware.locale import Locale

from ..lifecycle.steps import enqueue, fresh
from ..worker.runs import claimed_run, execution, run_async, run_sync
from ..worker.workers import drain

PATH = "django_jobqueue.middleware.locale.Locale"


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    settings.LANGUAGE_CODE = "en-us"


def speak():
    return [translation.get_language(), timezone.get_current_timezone_name(), str(translation.gettext("Monday"))]


@task
def here():
    return speak()


@task
async def ahere():
    await asyncio.sleep(0)
    return speak()


@task
def leaves_something_behind():
    translation.activate("fr")
    timezone.activate("Asia/Tokyo")


@task(middleware=[PATH], language="it", time_zone="Europe/Rome")
def declared():
    return speak()


@task
async def together(number):
    """Many run at once on one loop, each with its own."""
    await asyncio.sleep(0.05)
    return translation.get_language()


both = pytest.mark.parametrize("made", [here, ahere], ids=["sync", "async"])
SETTINGS = ["en-us", "UTC", "Monday"]


def answer(job):
    drain()
    return fresh(job).result


@both
def test_what_was_active_travels_with_the_job(made):
    with translation.override("de"), timezone.override("Europe/Berlin"):
        job = enqueue(made)
    assert fresh(job).options == {"language": "de", "time_zone": "Europe/Berlin"}
    assert answer(job) == ["de", "Europe/Berlin", "Montag"]


@both
def test_what_the_settings_say_does_not_travel(made):
    with translation.override("en-us"):
        job = enqueue(made)
    assert fresh(job).options is None
    assert answer(job) == SETTINGS


@both
def test_what_is_given_counts_more(made):
    with translation.override("de"), timezone.override("Europe/Berlin"):
        job = enqueue(made.using(language="fr", time_zone=None))
    assert fresh(job).options == {"language": "fr", "time_zone": None}
    assert answer(job) == ["fr", "UTC", "lundi"]


def test_what_the_task_says_counts_more_than_the_request():
    with translation.override("de"), timezone.override("Europe/Berlin"):
        job = enqueue(declared)
    assert fresh(job).options is None
    assert answer(job)[:2] == ["it", "Europe/Rome"]


def test_the_request_counts_more_than_the_projects_defaults(settings):
    settings.JOBQUEUE_DEFAULTS = {"language": "es", "time_zone": "Europe/Madrid"}
    with translation.override("de"):
        jobs = [enqueue(here)]
    jobs.append(enqueue(here))
    drain()
    assert [fresh(job).result[:2] for job in jobs] == [["de", "Europe/Madrid"], ["es", "Europe/Madrid"]]


def test_what_a_task_leaves_behind_is_not_the_next_ones():
    enqueue(leaves_something_behind)
    job = enqueue(here)
    drain(threads=1)
    assert fresh(job).result == SETTINGS


def test_after_the_job_all_is_as_before():
    with translation.override("fr"), timezone.override("Asia/Tokyo"):
        before = speak()
        Locale().process_job(type("Context", (), {"option": lambda self, name: None})(), lambda: None)
        assert speak() == before


def test_jobs_of_one_bulk_have_their_own_options_and_many_run_at_once():
    calls = [together.using(language=code).s(number) for number, code in enumerate(["de", "fr", "it"] * 5)]
    with timezone.override("Europe/Berlin"):
        results = enqueue_many([*calls, together.s(99)])
    drain(async_slots=20)
    jobs = [fresh(type("Row", (), {"pk": int(result.id)})) for result in results]
    assert [job.result for job in jobs] == [*["de", "fr", "it"] * 5, "en-us"]
    assert {job.options["time_zone"] for job in jobs} == {"Europe/Berlin"}


def test_a_time_zone_without_a_name_does_not_travel():
    with timezone.override(fixed(timedelta(hours=2))):
        job = enqueue(here)
    assert fresh(job).options is None
    with timezone.override(ZoneInfo("Asia/Tokyo")):
        assert fresh(enqueue(here)).options == {"time_zone": "Asia/Tokyo"}


def test_a_thread_that_has_no_language_enqueues_as_ever():
    def enqueue_elsewhere():
        from django.db import connection

        translation.deactivate_all()
        jobs.append(enqueue(here))
        connection.close()

    jobs: list = []
    thread = threading.Thread(target=enqueue_elsewhere)
    thread.start()
    thread.join(10)
    assert fresh(jobs[0]).options is None


@pytest.mark.parametrize(
    "given", [{"language": "tlh"}, {"language": 1}, {"time_zone": "Mars/Olympus"}, {"time_zone": 1}, {"time_zone": ""}]
)
def test_what_does_not_exist_is_refused(given):
    with pytest.raises(InvalidTask, match=next(iter(given))):
        here.using(**given)


# -- where nothing is to be activated -------------------------------------------------------------


@pytest.fixture(params=["known", "not known"])
def variables(request, monkeypatch):
    """Where Django keeps what is activated; another version may keep it where it cannot be found."""
    if request.param == "not known":
        monkeypatch.setattr(locale, "variables", lambda: (None, None))
    return request.param


@pytest.mark.once
def test_where_django_keeps_what_is_activated_is_found():
    language, time_zone = locale.variables()
    assert language is not None and time_zone is not None and language is not time_zone


@pytest.mark.once
def test_a_change_that_is_in_no_variable_of_the_context_or_in_several_is_not_found():
    one, two, elsewhere = ContextVar("one", default=0), ContextVar("two", default=0), []
    assert locale.variable_of(lambda: one.set(1), lambda: one.get() == 1) is one
    assert locale.variable_of(lambda: one.set(1), lambda: bool(elsewhere)) is None
    assert locale.variable_of(lambda: elsewhere.append(1), lambda: bool(elsewhere)) is None
    assert locale.variable_of(lambda: (one.set(1), two.set(1)), lambda: one.get() == 1) is None
    assert locale.variable_of(lambda: (one.set(1), elsewhere.append(1)), lambda: bool(elsewhere)) is None


@pytest.mark.once
@pytest.mark.parametrize("made", [here, ahere], ids=["sync", "async"])
def test_nothing_is_activated_for_a_job_that_wants_what_the_settings_say(monkeypatch, made):
    monkeypatch.setattr(locale, "activated", None)
    assert Context().run(run_async if made is ahere else run_sync, made).result == SETTINGS


@pytest.mark.once
@pytest.mark.parametrize("options", [None, {"language": "de"}, {"time_zone": "Europe/Berlin"}], ids=str)
def test_what_the_task_activates_is_undone_for_outer_layers_too(variables, options):
    seen = []

    def look(context, call_next):
        call_next()
        seen.append(speak())

    def run():
        context = execution().context(claimed_run(here, row={"options": options}).job, here, lambda: None)
        compose([look, Locale()], lambda context: leaves_something_behind.func(), is_async=False)(context)

    Context().run(run)
    assert seen == [SETTINGS]


@pytest.mark.once
def test_what_an_outer_layer_has_activated_is_not_the_jobs(variables):
    def run():
        translation.activate("fr")
        timezone.activate("Asia/Tokyo")
        return run_sync(here).result, speak()[:2]

    assert Context().run(run) == (SETTINGS, ["fr", "Asia/Tokyo"])
