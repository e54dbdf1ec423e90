"""The form for schedules that are made here: a task that the code exposes, arguments that fit it, times that come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..discovery import discover
from ..lifecycle.schedule import aliases_of
from ..models import Schedule
from ..registry import declared_function, resolve
from ..schedules import check_call
from ..task import JobTask, declared
from ..timing import default_zone, parse
from .base import database

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Schedule]
else:
    ModelForm = forms.ModelForm


SMALL = forms.Textarea({"rows": 3, "class": "vLargeTextField"})


def exposed_tasks() -> list[str]:
    """The paths of the tasks that may be scheduled here: all whose jobs are kept in this database."""
    discover()
    tasks = [task for task in tuple(declared.values()) if isinstance(task, JobTask) and _is_findable(task)]
    return sorted({task.module_path for task in tasks})


def _is_findable(task: JobTask[..., Any]) -> bool:
    try:
        found = resolve(task.module_path)
    except LookupError:
        return False
    return declared_function(found) is declared_function(task) and task.backend in aliases_of(database())


def choices() -> list[tuple[str, str]]:
    return [("", "---------"), *((path, path) for path in exposed_tasks())]


class ScheduleForm(ModelForm):
    task_path = forms.ChoiceField(
        label=gettext_lazy("Task"), choices=choices, help_text=gettext_lazy("A task of this project.")
    )
    args = forms.JSONField(
        label=gettext_lazy("Arguments"),
        required=False,
        initial=list,
        widget=SMALL,
        help_text=gettext_lazy("The positional arguments, a list: [42, “a.png”]"),
    )
    kwargs = forms.JSONField(
        label=gettext_lazy("Keyword arguments"),
        required=False,
        initial=dict,
        widget=SMALL,
        help_text=gettext_lazy("The keyword arguments, an object: {“size”: 64}"),
    )

    class Meta:
        model = Schedule
        fields = "name task_path args kwargs spec time_zone jitter overlap catch_up queue_name priority".split()

    def clean_args(self) -> list[Any]:
        args = self.cleaned_data["args"]
        if args is not None and not isinstance(args, list):
            raise forms.ValidationError(_("This must be a list, such as [42]."))
        return args or []

    def clean_kwargs(self) -> dict[str, Any]:
        kwargs = self.cleaned_data["kwargs"]
        if kwargs is not None and not isinstance(kwargs, dict):
            raise forms.ValidationError(_("This must be an object, such as {“size”: 64}."))
        return kwargs or {}

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        self._clean_times(data)
        if {"task_path", "args", "kwargs"} <= data.keys():
            self._clean_call(data)
        return data

    def _clean_times(self, data: dict[str, Any]) -> None:
        try:
            timing = parse(data.get("spec") or "", data.get("time_zone") or default_zone())
        except ValueError as error:
            field = "time_zone" if "time zone" in str(error) else "spec"
            if field not in self.errors:
                self.add_error(field, f"{error}.")
        else:
            data["spec"], data["time_zone"] = timing.text, timing.zone

    def _clean_call(self, data: dict[str, Any]) -> None:
        task: Any = resolve(data["task_path"])
        try:
            data["args"], data["kwargs"] = check_call(
                declared_function(task),
                data["args"],
                data["kwargs"],
                takes_context=task.takes_context,
                own_layers=task.middleware,
            )
        except ValueError as error:
            self.add_error("args", f"{error}.")
