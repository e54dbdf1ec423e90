"""The addresses of our pages, and what stands on them."""

from __future__ import annotations

import re
from html import unescape

JOBS = "/admin/django_jobqueue/job/"
QUEUES = "/admin/django_jobqueue/queue/"
PAUSES = "/admin/django_jobqueue/pause/"
WORKERS = "/admin/django_jobqueue/worker/"


def job_page(job) -> str:
    return f"{JOBS}{job.pk}/change/"


def text_of(response) -> str:
    """What a reader sees, with single spaces."""
    assert response.status_code == 200, response.status_code
    html = re.sub(r"<(script|style).*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    html = re.sub(r"</?(a|abbr|code|strong|time)\b[^>]*>", "", html)  # these do not part words
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def listed(response) -> list[int]:
    """The ids of the jobs in the list, in its order."""
    assert response.status_code == 200, response.status_code
    return [job.pk for job in response.context["cl"].result_list]


def messages_of(response) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def run_action(client, url: str, action: str, jobs, *, across: bool = False, **answer: object):
    """``value=…``: what the page that asks for it is told."""
    data = {"action": action, "_selected_action": [str(job.pk) for job in jobs], "index": "0"}
    data |= {**answer, "confirmed": "1"} if answer else {}
    return client.post(url, data | {"select_across": "1" if across else "0"}, follow=True)
