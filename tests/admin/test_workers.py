"""The list of workers."""

from __future__ import annotations

from django.utils import timezone

from django_jobqueue.models import Job, Worker

from .pages import JOBS, WORKERS, text_of


def test_a_worker(viewer, add_jobs, add_worker):
    worker = add_worker(queues=["mail", "images*"], slots=8)
    [job] = add_jobs(status=Job.Status.RUNNING, worker=worker, task_path="shop.jobs.send")
    response = viewer.get(WORKERS)
    text = text_of(response)
    for part in ("web1:17", "Running", "mail, images*", "8", "12 s ago", f"send #{job.pk}", "1 h ago"):
        assert part in text
    assert f'href="{JOBS}{job.pk}/change/"' in response.content.decode()


def test_the_living_come_first(viewer, add_worker):
    alive = add_worker()
    gone = add_worker(status=Worker.Status.STOPPED, stopped_at=timezone.now())
    stopping = add_worker(status=Worker.Status.STOPPING)
    lost = add_worker(status=Worker.Status.LOST)
    listed = [worker.pk for worker in viewer.get(WORKERS).context["cl"].result_list]
    assert listed == [stopping.pk, alive.pk, lost.pk, gone.pk]


def test_one_whose_lease_is_over(viewer, add_worker):
    add_worker()
    response = viewer.get(WORKERS)
    assert "Silent" not in text_of(response)
    add_worker(seconds_left=-1)
    response = viewer.get(WORKERS)
    assert "Silent" in text_of(response)
    assert response.content.decode().count("jq-late") == 1


def test_one_with_many_jobs(viewer, add_jobs, add_worker):
    worker = add_worker()
    add_jobs(9, status=Job.Status.RUNNING, worker=worker)
    response = viewer.get(WORKERS)
    assert "6 more" in text_of(response)
    assert f"{JOBS}?worker={worker.pk}" in response.content.decode()


def test_one_that_takes_from_all_queues(viewer, add_worker):
    add_worker(queues=[])
    add_worker(queues="strange")
    assert text_of(viewer.get(WORKERS)).count(" all ") == 2


def test_by_status(viewer, add_worker):
    add_worker()
    lost = add_worker(status=Worker.Status.LOST)
    response = viewer.get(WORKERS, {"status__exact": "LOST"})
    assert [worker.pk for worker in response.context["cl"].result_list] == [lost.pk]


def test_the_page_of_one(viewer, add_worker):
    worker = add_worker(queues=["mail"])
    text = text_of(viewer.get(f"{WORKERS}{worker.pk}/change/"))
    for part in ("web1:17", "Status: Running", "Queues: mail", "17", "(12 s ago)", "Stopped at: –"):
        assert part in text


def test_the_page_of_one_tells_what_it_runs(viewer, add_jobs, add_worker):
    worker = add_worker(seconds_left=-1)
    [job] = add_jobs(status=Job.Status.RUNNING, worker=worker, task_path="shop.jobs.send")
    response = viewer.get(f"{WORKERS}{worker.pk}/change/")
    assert "Status: Silent" in text_of(response)
    assert f'<a href="{JOBS}{job.pk}/change/">send #{job.pk}</a>' in response.content.decode()


def test_nothing_can_be_added_changed_or_deleted(admin_client, add_worker):
    worker = add_worker()
    assert admin_client.get(f"{WORKERS}add/").status_code == 403
    assert admin_client.post(f"{WORKERS}{worker.pk}/change/", {"name": "x"}).status_code == 403
    assert admin_client.post(f"{WORKERS}{worker.pk}/delete/", {"post": "yes"}).status_code == 403
