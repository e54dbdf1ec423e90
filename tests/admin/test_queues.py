"""The list of queues."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue.models import Job, Queue

from .pages import QUEUES, messages_of, run_action, text_of


@pytest.fixture
def mail(db) -> Queue:
    return Queue.objects.create(name="mail")


def test_what_is_in_them(viewer, mail, add_jobs):
    Queue.objects.create(name="closed", paused_at=timezone.now() - timedelta(hours=2))
    add_jobs(3, queue_name="mail", enqueued_at=timezone.now() - timedelta(minutes=7))
    add_jobs(4, queue_name="mail", scheduled=True)
    add_jobs(5, queue_name="mail", status=Job.Status.RUNNING)
    response = viewer.get(QUEUES)
    text = text_of(response)
    assert "Paused 2 h ago" in text
    assert "mail – 3 7 min" in text
    assert '<a href="/admin/django_jobqueue/job/?queue=mail&amp;status=ready">3</a>' in response.content.decode()


def test_a_queue_that_no_worker_has_met(viewer, mail, add_jobs):
    assert "no worker has met" not in text_of(viewer.get(QUEUES))
    add_jobs(2, queue_name="nobody & nothing")
    response = viewer.get(QUEUES)
    assert "Jobs are also in line in queues that no worker has met yet: nobody & nothing (2)" in text_of(response)
    assert "queue=nobody%20%26%20nothing" in response.content.decode()


def test_no_worker(viewer, add_worker):
    assert "No worker is running" in text_of(viewer.get(QUEUES))
    add_worker()
    assert "No worker is running" not in text_of(viewer.get(QUEUES))


def test_pause_and_resume_with_the_buttons(operator, mail):
    response = operator.post(f"{QUEUES}mail/pause/", follow=True)
    assert messages_of(response) == ["1 queue was paused. What is running goes on."]
    mail.refresh_from_db()
    assert mail.is_paused
    assert "Resume" in text_of(response)
    assert messages_of(operator.post(f"{QUEUES}mail/pause/", follow=True)) == ["1 was so already."]
    assert messages_of(operator.post(f"{QUEUES}mail/resume/", follow=True)) == ["1 queue was resumed."]
    mail.refresh_from_db()
    assert not mail.is_paused


@pytest.mark.parametrize("name", ["a/b", "ünï code", "a_b", "pause", "50%", "<b>"])
def test_the_button_of_a_queue_of_any_name(operator, name):
    queue = Queue.objects.create(name=name)
    html = operator.get(QUEUES).content.decode()
    url = html.split('formaction="')[1].split('"')[0]
    assert messages_of(operator.post(url, follow=True)) == ["1 queue was paused. What is running goes on."]
    queue.refresh_from_db()
    assert queue.is_paused


def test_pause_and_resume_as_actions(operator, mail):
    Queue.objects.create(name="closed", paused_at=timezone.now())
    response = run_action(operator, QUEUES, "pause", Queue.objects.all())
    assert messages_of(response) == ["1 queue was paused. What is running goes on. 1 was so already."]
    response = run_action(operator, QUEUES, "resume", Queue.objects.all())
    assert messages_of(response) == ["2 queues were resumed."]


def test_g16_somebody_who_may_only_look_can_do_nothing(viewer, mail):
    response = viewer.get(QUEUES)
    assert "formaction" not in response.content.decode()
    assert response.context["action_form"] is None
    assert viewer.post(f"{QUEUES}mail/pause/").status_code == 403
    run_action(viewer, QUEUES, "pause", [mail])
    mail.refresh_from_db()
    assert not mail.is_paused


def test_g16_somebody_who_may_not_look_can_do_nothing(client_with, mail):
    assert client_with("pause_queue").post(f"{QUEUES}mail/pause/").status_code == 403
    mail.refresh_from_db()
    assert not mail.is_paused


def test_a_link_cannot_do_it(operator, mail):
    assert operator.get(f"{QUEUES}mail/pause/").status_code == 405
    assert operator.post(f"{QUEUES}nothing/pause/").status_code == 404


def test_nothing_can_be_added_or_deleted(admin_client, mail):
    assert admin_client.get(f"{QUEUES}add/").status_code == 403
    assert admin_client.post(f"{QUEUES}mail/delete/", {"post": "yes"}).status_code == 403
    assert "mail" in text_of(admin_client.get(f"{QUEUES}mail/change/"))
