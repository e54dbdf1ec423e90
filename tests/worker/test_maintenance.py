"""Maintenance: it prunes now and then, and what goes wrong in that stops nothing."""

import time

import pytest

from django_jobqueue.exceptions import ArchiveFailed
from django_jobqueue.lifecycle import Pruner
from django_jobqueue.models import Job
from django_jobqueue.worker import maintenance as module
from django_jobqueue.worker.maintenance import Maintenance

from ..lifecycle.test_prune import DAY, job
from .workers import make_worker

pytestmark = pytest.mark.django_db


def maintenance(pruner) -> Maintenance:
    return Maintenance("default", lease=30, pruner=pruner, reaped=print, look_at_memory=lambda: None)


@pytest.fixture
def each_time(monkeypatch):
    """It is time to prune whenever it is asked."""
    monkeypatch.setattr(module, "PRUNE_INTERVAL", -1.0)


def test_a_worker_that_has_just_started_prunes_nothing_yet():
    job(enqueued=9, finished=8)
    maintenance(Pruner("default", 7 * DAY))._tend()
    assert Job.objects.count() == 1


def test_jobs_go_by_the_projects_retention(each_time, settings):
    options = {"RETENTION": {"SUCCESSFUL": DAY, "FAILED": None}}
    settings.TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "OPTIONS": options}}
    kept = [job("FAILED", enqueued=900, finished=900), job("CANCELLED", enqueued=3, finished=3)]
    job(enqueued=3, finished=3)
    make_worker().maintenance._tend()
    assert set(Job.objects.all()) == set(kept)


def refuses(jobs):
    raise OSError("no space left")


def test_an_archive_that_raises_is_logged_and_its_jobs_are_not_offered_again_at_once(monkeypatch, settings, caplog):
    options = {"ARCHIVE": f"{__name__}.refuses"}
    settings.TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "OPTIONS": options}}
    job(enqueued=9, finished=8)
    looks_after = make_worker().maintenance
    looks_after._pruned_at -= module.PRUNE_INTERVAL + 1
    for _ in range(3):
        looks_after._tend()
    assert caplog.text.count("The archive did not take 1 jobs: OSError: no space left. They stay for now.") == 1
    assert "test_maintenance.py" in caplog.text, "with the traceback"
    assert Job.objects.count() == 1


def test_what_goes_wrong_is_tried_again_in_a_minute(monkeypatch):
    class Broken:
        refusal: ArchiveFailed | None = None
        turns = 0

        def turn(self, batches):
            self.turns += 1
            raise LookupError("no such table")

    broken = Broken()
    looks_after = maintenance(broken)
    looks_after._pruned_at = time.monotonic() - module.PRUNE_INTERVAL - 1
    with pytest.raises(LookupError):
        looks_after._tend()
    looks_after._tend()
    assert broken.turns == 1
