"""Verbs that need a value: move, change the priority, reschedule. What each asks for, and what it makes of it."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

from django import forms
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from ..lifecycle.changes import Change, to_priority, to_queue, to_time
from ..lifecycle.control import apply
from ..moments import check_moment
from .verbs import Verb, some

if TYPE_CHECKING:
    from datetime import datetime

    from ..models import Job

PERMISSION = "move_job"
NOT_STARTED = frozenset({"ready", "scheduled", "waiting"})


class ValueForm(forms.Form):
    """``value`` is what the verb needs; ``option`` is how the command is told it."""

    @property
    def option(self) -> str:
        return f"--to {quote(str(self.cleaned_data['value']))}"


class QueueForm(ValueForm):
    value = forms.CharField(
        label=_("Queue"),
        max_length=100,
        widget=forms.TextInput(attrs={"list": "jq-queues", "autocomplete": "off", "autofocus": True}),
        help_text=_("Each job keeps its place in line."),
    )


class PriorityForm(ValueForm):
    value = forms.IntegerField(
        label=_("Priority"),
        min_value=-100,
        max_value=100,
        widget=forms.NumberInput(attrs={"autofocus": True}),
        help_text=_("From -100 to 100; larger numbers run first."),
    )


class TimeForm(ValueForm):
    value = forms.DateTimeField(
        label=_("Time"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
        help_text=_("Earliest start time. Leave empty to run now."),
    )

    def clean_value(self) -> datetime | None:
        value: datetime | None = self.cleaned_data["value"]
        if value is not None:
            try:
                check_moment(gettext("The time"), value)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from None
        return value

    @property
    def option(self) -> str:
        time: datetime | None = self.cleaned_data["value"]
        return f"--to {'now' if time is None else time.isoformat()}"


class Steering:
    """A verb that still lacks its value."""

    def __init__(self, name: str, label: Any, plural: Any, form: type[ValueForm], change: Any, done: Any) -> None:
        self.name, self.label, self.plural, self.form, self.done = name, label, plural, form, done
        self._change = change

    def change(self, value: Any) -> Change:
        return self._change(value)  # type: ignore[no-any-return]

    def verb(self, value: Any) -> Verb:
        change = self.change(value)

        def do(ids: list[int], using: str) -> tuple[list[tuple[Any, int]], int]:
            return some((self.done, sum(apply(change, ids, using)))), 0

        kinds = frozenset(change.kinds)
        return Verb(self.name, self.label, self.plural, PERMISSION, kinds, do, lambda job: self._is_so(job, value))

    def _is_so(self, job: Job, value: Any) -> bool:
        columns = {"move": job.queue_name, "priority": job.priority}
        return self.name in columns and columns[self.name] == value


MOVE = Steering(
    "move",
    _("Move"),
    _("Move selected jobs to another queue"),
    QueueForm,
    to_queue,
    ngettext_lazy("%(count)d job was moved.", "%(count)d jobs were moved.", "count"),
)
PRIORITY = Steering(
    "priority",
    _("Change the priority"),
    _("Change the priority of selected jobs"),
    PriorityForm,
    to_priority,
    ngettext_lazy("%(count)d job was given another priority.", "%(count)d jobs were given another priority.", "count"),
)
RESCHEDULE = Steering(
    "reschedule",
    _("Reschedule"),
    _("Reschedule selected jobs"),
    TimeForm,
    to_time,
    ngettext_lazy("%(count)d job was given another time.", "%(count)d jobs were given another time.", "count"),
)

STEERINGS = {steering.name: steering for steering in (MOVE, PRIORITY, RESCHEDULE)}
