"""The actions of the list of jobs, on those that are selected or on all that the list shows."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.template.response import TemplateResponse
from django.utils.translation import gettext

from .. import stats
from ..lifecycle.batches import ORDERS
from ..lifecycle.control import examples
from .choices import known_queues
from .pagination import CappedPaginator
from .values import Steering, ValueForm
from .verbs import Verb

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

    from ..lifecycle.changes import Change
    from ..models import Job
    from .jobs import JobAdmin

#: What is read of each job.
COLUMNS = ("pk", "status", "place", "cancel_requested_at", "task_path", "queue_name", "priority")

#: The list's own parameters that the command has an option for.
OPTIONS = {"status": "--status", "queue": "--queue", "task": "--task"}


def as_action(verb: Verb) -> Any:
    """The verb as an action. It reaches as many jobs as the pages of the list show, and no more."""

    @admin.action(description=verb.plural, permissions=[verb.name])
    def action(model_admin: JobAdmin, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        do_some(model_admin, request, verb, jobs, {"run_now": "reschedule --to now"}.get(verb.name, verb.name))

    action.__name__ = verb.name
    return action


def as_asking_action(steering: Steering) -> Any:
    """The same for a verb that needs a value: a page asks for it first, and posts to the list again."""

    @admin.action(description=steering.plural, permissions=["move"])
    def action(model_admin: JobAdmin, request: HttpRequest, jobs: QuerySet[Job]) -> HttpResponse | None:
        form = steering.form(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return ask(model_admin, request, steering, form, jobs)
        value = form.cleaned_data["value"]
        change = steering.change(value) if is_across(request) else None
        do_some(model_admin, request, steering.verb(value), jobs, f"{steering.name} {form.option}", change)
        return None

    action.__name__ = steering.name
    return action


def ask(
    model_admin: JobAdmin, request: HttpRequest, steering: Steering, form: ValueForm, jobs: QuerySet[Job]
) -> HttpResponse:
    across = is_across(request)
    [number] = stats.capped_counts([jobs], jobs.db, CappedPaginator.cap)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": steering.label,
        "opts": model_admin.opts,
        "form": form,
        "media": model_admin.media + form.media,
        "number": number,
        "steering": steering,
        "across": across,
        "limit": f"{CappedPaginator.cap:,}" if number.capped else "",
        "selected": [] if across else request.POST.getlist(ACTION_CHECKBOX_NAME),
        "checkbox": ACTION_CHECKBOX_NAME,
        "queues": known_queues(request),
        "back": request.get_full_path(),
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "admin/django_jobqueue/job/ask.html", context)


def do_some(
    model_admin: JobAdmin,
    request: HttpRequest,
    verb: Verb,
    jobs: QuerySet[Job],
    command: str,
    change: Change | None = None,
) -> None:
    """Do it to as many as one request should, and say how to go on.

    Jobs to which the ``change`` has been made stay in the list: with it they are passed over, or a second time would
    find them again and never come further.
    """
    limit, jobs = CappedPaginator.cap, jobs.only(*COLUMNS)
    if change is None:
        rows = list(jobs[: limit + 1])
    else:
        kinds = [kind for kind in change.kinds if request.GET.get("status") in (kind, None, "")]
        rows = examples(change, jobs, kinds=kinds, limit=limit + 1)
    model_admin.do(request, verb, rows[:limit], jobs.db)
    if len(rows) > limit:
        more = gettext("There are more jobs like these: repeat the action for the next %(limit)d.") % {"limit": limit}
        if told := as_command(request, command):
            more += " " + gettext("The command does it for all of them: %(command)s") % {"command": told}
        messages.info(request, more)


def as_command(request: HttpRequest, command: str) -> str:
    """How the command is told which jobs the list shows; empty where it cannot be."""
    asked = {name: value for name, value in request.GET.items() if value and name not in ("p", "e")}
    if not asked or set(asked) - set(OPTIONS) or asked.get("status", "ready") not in ORDERS:
        return ""
    options = " ".join(f"{OPTIONS[name]} {quote(str(value))}" for name, value in asked.items())
    return f"manage.py jobqueue {command} {options}"


def is_across(request: HttpRequest) -> bool:
    return request.POST.get("select_across") == "1"
