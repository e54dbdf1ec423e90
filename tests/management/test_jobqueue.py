"""manage.py jobqueue: the verbs, for people and with --json for programs."""

import json
from argparse import ArgumentTypeError
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_jobqueue.lifecycle import cancel, pause
from django_jobqueue.management.commands.jobqueue import duration
from django_jobqueue.models import Job, Queue

from ..lifecycle.steps import end, enqueue, failed, fresh, started, succeeded
from ..tasks import echo, noop

pytestmark = pytest.mark.django_db


def say(*args) -> str:
    out = StringIO()
    call_command("jobqueue", *map(str, args), stdout=out)
    return out.getvalue().strip()


def tell(verb, *args):
    return json.loads(say(verb, "--json", *args))


def refused(*args) -> str:
    with pytest.raises(CommandError) as error:
        say(*args)
    return str(error.value)


def failed_job(task=noop) -> Job:
    job = started(task)
    end(job, failed())
    return job


def cancelled_job(task=noop) -> Job:
    job = enqueue(task)
    cancel([job.pk])
    return job


# -- status ---------------------------------------------------------------------------------------


def test_status_shows_queues_workers_and_numbers():
    enqueue(noop.using(queue_name="mail"))
    enqueue(noop.using(queue_name="mail", run_after=timedelta(hours=1)))
    failed_job()
    pause("mail")
    text = say("status")
    assert "1 ready" in text and "1 scheduled" in text and "1 failed" in text
    assert "1 alive" in text
    line = next(line for line in text.splitlines() if line.startswith("mail"))
    assert "(paused)" in line


def test_status_of_nothing():
    assert say("status").startswith("Jobs")


def test_status_tells_for_which_keys_jobs_wait():
    for tenant in "aab":
        enqueue(noop)
        Job.objects.filter(concurrency_key=None).update(status="WAITING", concurrency_key=f"tenant-{tenant}")
    assert "Keys     tenant-a (0 in line or running, 2 waiting), tenant-b (0 in line or running, 1 waiting)" in say(
        "status"
    )
    assert [key["name"] for key in tell("status")["keys"]] == ["tenant-a", "tenant-b"]


def test_status_for_programs():
    enqueue(noop.using(queue_name="mail"))
    data = tell("status")
    assert data["totals"]["ready"]["number"] == 1
    assert [(queue["name"], queue["ready"]["number"]) for queue in data["queues"]] == [("mail", 1)]
    assert data["workers"]["alive"] == 0


# -- retry ----------------------------------------------------------------------------------------


def test_retry_by_number_takes_failed_and_cancelled_jobs():
    one, two, done = failed_job(), cancelled_job(), started()
    end(done, succeeded())
    text = say("retry", one.pk, two.pk, done.pk)
    assert text.startswith("2 jobs put back in line.") and "1 job left alone: only failed" in text
    assert {fresh(one).status, fresh(two).status} == {"READY"} and fresh(done).status == "SUCCESSFUL"


def test_retry_tells_whose_key_another_job_has():
    alone = noop.using(unique=True)
    older, newer = failed_job(alone), failed_job(alone)
    assert "1 job put back in line. 1 job left alone: another job has the unique key." in say("retry", "--all")
    assert (fresh(older).status, fresh(newer).status) == ("FAILED", "READY")
    assert tell("retry", older.pk) == {"retried": 0, "held": 1}
    assert "only failed" not in say("retry", older.pk)


def test_retry_all_means_all_failed_ones():
    jobs, other = [failed_job() for _ in range(3)], cancelled_job()
    assert tell("retry", "--all") == {"retried": 3, "held": 0}
    assert {fresh(job).status for job in jobs} == {"READY"} and fresh(other).status == "CANCELLED"


def test_retry_may_take_cancelled_ones_too():
    failed_job(), cancelled_job()
    assert tell("retry", "--all", "--cancelled") == {"retried": 2, "held": 0}


def test_retry_by_task_and_queue_takes_what_is_of_both():
    mail = noop.using(queue_name="mail")
    both, wrong_queue, wrong_task = failed_job(mail), failed_job(noop), cancelled_job(echo.using(queue_name="mail"))
    assert tell("retry", "--task", "tests.tasks.noop", "--queue", "mail") == {"retried": 1, "held": 0}
    assert fresh(both).status == "READY"
    assert fresh(wrong_queue).status == "FAILED" and fresh(wrong_task).status == "CANCELLED"


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_jobs_must_be_named(verb):
    job = failed_job() if verb == "retry" else enqueue()
    assert "Say which jobs" in refused(verb)
    assert fresh(job).status in ("FAILED", "READY")


def test_there_is_no_cancelling_everything():
    enqueue()
    assert "--all" in refused("cancel", "--all")
    assert Job.objects.in_line().count() == 1


# -- cancel ---------------------------------------------------------------------------------------


def test_cancel_says_what_was_cancelled_and_what_was_asked():
    running, done, ready = started(), failed_job(), enqueue()
    text = say("cancel", running.pk, ready.pk, done.pk)
    assert text.startswith("1 job cancelled, 1 running asked to stop.") and "1 job left alone" in text
    assert fresh(running).is_cancelling and fresh(ready).status == "CANCELLED" and fresh(done).status == "FAILED"


def test_cancel_by_task_and_queue():
    mine, other = enqueue(noop.using(queue_name="mail")), enqueue()
    assert tell("cancel", "--queue", "mail") == {"cancelled": 1, "requested": 0}
    assert (fresh(mine).status, fresh(other).status) == ("CANCELLED", "READY")
    assert tell("cancel", "--task", "tests.tasks.noop") == {"cancelled": 1, "requested": 0}


# -- pause and resume -----------------------------------------------------------------------------


def test_pause_and_resume_say_what_changed():
    enqueue(noop.using(queue_name="mail")), enqueue(noop.using(queue_name="images"))
    assert say("pause", "mail", "images").splitlines() == ["mail is paused.", "images is paused."]
    assert tell("pause", "mail", "other") == {"paused": ["other"]}
    assert say("pause", "mail") == "mail was paused already."
    assert {queue.name for queue in Queue.objects.all() if queue.is_paused} == {"mail", "images", "other"}
    assert tell("resume", "mail", "images") == {"resumed": ["mail", "images"]}
    assert say("resume", "mail", "other").splitlines() == ["mail was not paused.", "other is open again."]


def test_pausing_what_nobody_knows_is_said():
    assert say("pause", "mial").splitlines() == [
        "mial is paused.",
        "No worker has met mial, and no job is in line there.",
    ]
    assert say("pause", "mial") == "mial was paused already."


# -- prune ----------------------------------------------------------------------------------------


def finished_ago(**ago) -> Job:
    job = started()
    end(job, succeeded())
    at = timezone.now() - timedelta(**ago)
    Job.objects.filter(pk=job.pk).update(enqueued_at=at, finished_at=at)
    return job


def test_prune_goes_by_the_retention_or_by_what_is_said():
    old, young = finished_ago(days=8), finished_ago(days=2)
    assert tell("prune") == {"deleted": 1}
    assert not Job.objects.filter(pk=old.pk).exists()
    assert tell("prune", "--older-than", "3d") == {"deleted": 0}
    assert say("prune", "--older-than", "36h") == "1 job deleted that finished more than 1 d 12 h ago."
    assert not Job.objects.filter(pk=young.pk).exists()


def test_a_dry_run_deletes_nothing():
    old, due = finished_ago(days=8), finished_ago(minutes=1)
    Job.objects.filter(pk=due.pk).update(prune_at=due.enqueued_at)
    assert tell("prune", "--dry-run") == {"would_delete": 2}
    assert say("prune", "--dry-run", "--older-than", "9d") == "1 job would be deleted that finished more than 9 d ago."
    assert {old.pk, due.pk} == set(Job.objects.values_list("pk", flat=True))


def test_prune_leaves_jobs_alone_that_are_kept_for_longer():
    kept, due = finished_ago(days=8), finished_ago(minutes=1)
    Job.objects.filter(pk=kept.pk).update(prune_at=timezone.now() + timedelta(hours=1))
    Job.objects.filter(pk=due.pk).update(prune_at=timezone.now() - timedelta(hours=1))
    assert tell("prune", "--older-than", "1d", "--dry-run") == {"would_delete": 1}
    assert tell("prune", "--older-than", "1d") == {"deleted": 1}
    assert Job.objects.get() == kept


def refuses(jobs):
    raise OSError("no space left")


def test_jobs_that_the_archive_does_not_take_stay_and_the_command_fails(settings):
    options = {"ARCHIVE": f"{__name__}.refuses"}
    settings.TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "OPTIONS": options}}
    finished_ago(days=8)
    assert "OSError: no space left. They are not deleted." in refused("prune")
    assert Job.objects.count() == 1


def test_prune_without_a_retention_must_be_told(settings):
    settings.TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "OPTIONS": {"RETENTION": None}}}
    finished_ago(days=800)
    assert "--older-than" in say("prune") and Job.objects.count() == 1
    assert tell("prune", "--older-than", "1w") == {"deleted": 1}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), ("2W", 1_209_600), (" 5m ", 300)],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "7 days", "-1d", "1y", "1d2h", "nan", "1e3"])
def test_what_is_no_duration(text):
    with pytest.raises(ArgumentTypeError, match="7d"):
        duration(text)


# -- jobs that are not there ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_a_wrong_number_is_an_error_and_keeps_none_of_the_others_back(verb):
    job = failed_job() if verb == "retry" else enqueue()
    assert refused(verb, 10**9, job.pk, 10**30) == f"There are no jobs {10**9}, {10**30}."
    assert fresh(job).status == ("READY" if verb == "retry" else "CANCELLED")


def test_a_wrong_number_leaves_the_json_whole():
    out = StringIO()
    with pytest.raises(CommandError, match="There is no job 4711"):
        call_command("jobqueue", "retry", "4711", "--json", stdout=out)
    assert json.loads(out.getvalue()) == {"retried": 0, "held": 0}


@pytest.mark.parametrize("option", [["--all"], ["--queue", "mail"], ["--task", "tests.tasks.noop"]])
def test_numbers_and_conditions_do_not_mix(option):
    job, other = failed_job(), failed_job()
    assert f"either by their numbers or by {option[0]}" in refused("retry", job.pk, *option)
    assert {fresh(job).status, fresh(other).status} == {"FAILED"}


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "VERB"),
        (["explode"], "explode"),
        (["retry", "first"], "first"),
        (["pause"], "QUEUE"),
        (["pause", ""], "1 to 100 characters"),
        (["resume", "x" * 101], "1 to 100 characters"),
        (["prune", "--older-than", "soon"], "soon"),
        (["status", "--database", "missing"], "missing"),
    ],
)
def test_what_cannot_be_is_named(args, words):
    assert words in refused(*args)


def test_status_names_tasks_that_nobody_knows_any_more():
    job = enqueue()
    Job.objects.filter(pk=job.pk).update(status="WAITING", concurrency_key="a", task_path="tests.nowhere.gone")
    known = enqueue()
    Job.objects.filter(pk=known.pk).update(status="WAITING", concurrency_key="b")
    assert tell("status")["unknown_tasks"] == ["tests.nowhere.gone"]
    assert "Waiting  jobs of tests.nowhere.gone, under a concurrency key: no such task is known here" in say("status")
