"""The backend: what enqueueing makes of a task, and what it refuses."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_jobqueue import task
from django_jobqueue.backend import JobQueueBackend
from django_jobqueue.compat import (
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
    task_enqueued,
)
from django_jobqueue.models import Job

from .tasks import add, echo, noop

OURS = "django_jobqueue.backend.JobQueueBackend"


def configured(settings, **options):
    settings.TASKS = {"default": {"BACKEND": OURS, "QUEUES": options.pop("QUEUES", []), "OPTIONS": options}}
    return task_backends["default"]


def test_what_it_can_do():
    backend = task_backends["default"]
    assert isinstance(backend, JobQueueBackend)
    assert backend.supports_defer and backend.supports_async_task
    assert backend.supports_get_result and backend.supports_priority


def test_the_database_comes_from_the_options(settings):
    assert configured(settings).database == "default"


def test_an_option_that_cannot_be_is_an_error_that_names_the_entry(settings):
    backend = configured(settings, LEASE=0)
    with pytest.raises(ImproperlyConfigured, match=r"TASKS\['default'\]: OPTIONS\['LEASE'\] is 0"):
        _ = backend.config
    (message,) = backend.check()
    assert message.id == "jobqueue.E001" and "LEASE" in message.msg and message.hint


def test_a_good_configuration_has_nothing_to_say(settings):
    assert configured(settings, LEASE=5, MAX_ATTEMPTS=3).check() == []


def test_without_the_app_it_says_what_to_install(settings, monkeypatch):
    backend = task_backends["default"]
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: name != "django_jobqueue")
    (message,) = backend.check()
    assert message.id == "jobqueue.E002"
    with pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
        noop.enqueue()


# -- enqueue --------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_result_says_what_was_enqueued():
    result = echo.using(queue_name="mail", priority=3).enqueue(1, (2,), key={"a": b"text"})
    job = Job.objects.get()
    assert result.id == str(job.pk) and result.backend == "default"
    assert result.status == TaskResultStatus.READY and not result.is_finished
    assert (result.args, result.kwargs) == ([1, [2]], {"key": {"a": "text"}})
    assert result.enqueued_at == job.enqueued_at or abs(result.enqueued_at - job.enqueued_at).total_seconds() < 0.001
    assert result.started_at is None and result.finished_at is None and result.last_attempted_at is None
    assert result.errors == [] and result.worker_ids == [] and result.attempts == 0


@pytest.mark.django_db
def test_the_maximum_is_the_tasks_or_the_backends(settings):
    configured(settings, MAX_ATTEMPTS=4)
    results = [noop.enqueue(), noop.using(max_attempts=9).enqueue(), noop.using(max_attempts=1).enqueue()]
    assert [Job.objects.get(pk=result.id).max_attempts for result in results] == [4, 9, 1]


@pytest.mark.django_db
def test_only_queues_of_the_settings_may_be_named(settings):
    configured(settings, QUEUES=["default", "mail"])
    noop.using(queue_name="mail").enqueue()
    with pytest.raises(InvalidTask):
        noop.using(queue_name="images")


def outer():
    @task
    def inner():
        pass


def hidden():
    pass


shadowed = task(hidden)


@pytest.mark.django_db
def test_a_task_that_no_worker_would_find_is_refused():
    with pytest.raises(InvalidTask, match=r"tests\.test_backend\.hidden is not the name"):
        shadowed.enqueue()
    with pytest.raises(InvalidTask):
        outer()
    assert not Job.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("bad", [object(), float("nan"), "a\x00b", "\ud800"])
def test_g9_arguments_that_cannot_be_stored_are_refused_and_nothing_is_saved(bad):
    with pytest.raises((TypeError, ValueError), match="Argument 'b'"):
        add.enqueue(1, b=bad)
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_the_enqueueing_is_announced_once_for_each_job():
    seen = []

    def receive(sender, task_result, **kwargs):
        seen.append((sender, task_result.id))

    task_enqueued.connect(receive)
    try:
        result = noop.enqueue()
    finally:
        task_enqueued.disconnect(receive)
    assert seen == [(JobQueueBackend, result.id)]


@pytest.mark.django_db
@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_a_receiver_that_raises_does_not_undo_the_enqueue(error, caplog):
    def receive(sender, task_result, **kwargs):
        raise error("receiver")

    task_enqueued.connect(receive)
    try:
        result = noop.enqueue()
    finally:
        task_enqueued.disconnect(receive)
    assert Job.objects.filter(pk=result.id).exists()
    assert "receiver" in caplog.text


# -- results by id --------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_result_is_found_by_its_id():
    enqueued = add.enqueue(1, 2)
    found = task_backends["default"].get_result(enqueued.id)
    assert (found.id, found.args, found.task) == (enqueued.id, [1, 2], add)
    assert add.get_result(enqueued.id).id == enqueued.id


@pytest.mark.django_db
@pytest.mark.parametrize(
    "result_id",
    [
        "",
        "0",
        "1",
        "01",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1.0",
        "1e3",
        "abc",
        "١",
        "²",
        "9" * 19,
        "9" * 5000,
        None,
        "1;--",
        "\x00",
    ],
)
def test_what_is_no_id_does_not_exist(result_id):
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(result_id)


@pytest.mark.django_db
def test_what_is_no_id_does_not_reach_the_database(django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result("9" * 30)
    assert connections["default"].is_usable()


@pytest.mark.django_db
def test_getting_a_result_is_two_statements(django_assert_num_queries):
    result = noop.enqueue()
    with django_assert_num_queries(2):
        task_backends["default"].get_result(result.id)


@pytest.mark.parametrize("path", ["no.such.function", "shop", "tests.settings.ROOT"], ids=str)
def test_an_archive_that_cannot_be_called_is_found_by_the_checks(path):
    [message] = [found for found in backend_with(ARCHIVE=path).check() if found.id == "jobqueue.E024"]
    assert "OPTIONS['ARCHIVE']" in message.msg and message.hint


def test_an_archive_is_a_function():
    assert backend_with(ARCHIVE="builtins.print").archive is print
    assert backend_with(ARCHIVE="builtins.print").check() == []
    assert backend_with().archive is None


def backend_with(**options):
    return JobQueueBackend("default", {"BACKEND": "x", "OPTIONS": options})
