"""What all our pages have in common: they change nothing by themselves, and read from the jobs' database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import ShowFacets
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse

from .. import conf
from .pagination import CappedPaginator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


def database() -> str:
    """The alias of the database that the first backend of ours in TASKS keeps its jobs in."""
    return next(iter(conf.databases()), "default")


class ReadOnlyAdmin(ModelAdmin):
    """Rows are written by the lifecycle alone: nothing can be added, edited or deleted here.

    The lists never count a table, and offer no order that no index has.
    """

    list_per_page = 50
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    sortable_by = ()
    actions_selection_counter = True

    class Media:
        css = {"all": ["django_jobqueue/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(database())

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, f"view_{self.opts.model_name}") or self.may(request, f"change_{self.opts.model_name}")

    def log_verb(self, request: HttpRequest, label: Any, rows: Sequence[Any]) -> None:
        """Leave a trace in the admin's history: who did it."""
        if rows:
            user: Any = request.user
            LogEntry.objects.log_actions(user.pk, rows, CHANGE, str(label))

    def posted(
        self, request: HttpRequest, pk: str, permission: str, do: Callable[[Any], object], *, back: str = "changelist"
    ) -> HttpResponse:
        """The answer to a button: do it to the row, and go back to the list, or to the row's page (``change``)."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_view_permission(request) and self.may(request, permission)):
            raise PermissionDenied
        found = self.get_object(request, pk)
        if found is None:
            raise Http404
        do(found)
        page = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_{back}"
        return HttpResponseRedirect(reverse(page, args=[found.pk] if back == "change" else []))

    def may(self, request: HttpRequest, codename: str) -> bool:
        """Has the user this permission of ours?"""
        return request.user.has_perm(f"{self.opts.app_label}.{codename}")
