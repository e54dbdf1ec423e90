"""Pages of a table that nobody counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.paginator import Paginator
from django.utils.functional import cached_property

from .. import stats

if TYPE_CHECKING:
    from django.db.models import QuerySet

    AnyPaginator = Paginator[Any]
else:
    AnyPaginator = Paginator


class CappedPaginator(AnyPaginator):
    """Counts the rows up to a cap, and has no page beyond it."""

    cap = stats.CAP

    @cached_property
    def rows(self) -> stats.Count:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        [count] = stats.capped_counts([rows], using=rows.db, cap=self.cap)
        return count

    @property
    def capped(self) -> bool:
        """Are there more rows than the pages show?"""
        return self.rows.capped

    @cached_property
    def count(self) -> int:
        return self.rows.number
