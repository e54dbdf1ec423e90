"""Jobs whose task this process does not know wait for one that does."""

from __future__ import annotations

import pytest

from django_jobqueue.lifecycle import run_now
from django_jobqueue.models import Attempt, Job

from .conftest import statuses, wait_for_exit
from .tasks import work

pytestmark = pytest.mark.processes


def test_g8_unknown_task_waits_for_a_worker_that_knows_it(queue_db, start_worker, journal):
    new = [int(work.enqueue().id) for _ in range(3)]
    known = int(work.enqueue().id)
    paths = ["tests.journeys.newer.task", "tests.journeys.tasks.newer_task", "no.such.module.task"]
    for job, path in zip(new, paths, strict=True):
        Job.objects.filter(pk=job).update(task_path=path)

    assert wait_for_exit(start_worker("--drain", 1), 30) == 0
    waiting = Job.objects.filter(pk__in=new)
    assert set(waiting.values_list("status", "place", "attempts", "tries", "fence")) == {("READY", None, 0, 0, None)}
    assert all(waiting.values_list("run_after", flat=True))
    assert not Attempt.objects.filter(job__in=new).exists()
    assert Job.objects.get(pk=known).status == "SUCCESSFUL"

    waiting.update(task_path=work.module_path)  # as the next version's worker sees them
    assert run_now(new) == 3
    assert wait_for_exit(start_worker("--drain", 1), 30) == 0
    assert statuses() == {"SUCCESSFUL": 4}
    assert set(waiting.values_list("attempts", flat=True)) == {1}


@pytest.mark.once
def test_g8_a_module_that_does_not_import_is_unknown_too(queue_db, start_worker, tmp_path):
    """The new version's task is broken in this process, which need not be so in the next."""
    job = work.enqueue()
    Job.objects.filter(pk=job.id).update(task_path="tests.journeys.broken_module.task")
    work.enqueue()
    assert wait_for_exit(start_worker("--drain", 1), 30) == 0
    assert statuses() == {"READY": 1, "SUCCESSFUL": 1}


@pytest.mark.once
def test_g16_no_row_makes_a_worker_run_what_is_no_task(queue_db, start_worker, tmp_path):
    """The path is data: it imports no foreign module and calls no function that was not declared a task."""
    for path in ("os.getpid", "tests.journeys.tasks.note", "antigravity.fly", "tests.journeys.tasks.os.getpid"):
        Job.objects.filter(pk=work.enqueue().id).update(task_path=path)
    assert wait_for_exit(start_worker("--drain", 1), 30) == 0
    assert statuses() == {"READY": 4}
