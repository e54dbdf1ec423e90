"""Indexes that hold only some rows, and what stands in for them where a database has no such indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import Index, Model

#: A statement that does nothing, for an index that is not made: Django executes whatever it is given.
NOTHING = "DO 0"


class PartialIndex(Index):
    """An index with a condition. MySQL and MariaDB, which have none, get one over ``whole`` instead, or none if that is
    empty; without ``whole`` they get the same fields.

    To migrations it is a plain ``Index``: those have their own SQL for MySQL. This class is for tables that are made
    without migrations, as ``pytest --nomigrations`` and ``TEST["MIGRATE"] = False`` do; a test compares the two.
    """

    def __init__(self, *expressions: Any, whole: Sequence[str] | None = None, **kwargs: Any) -> None:
        self.whole = whole
        super().__init__(*expressions, **kwargs)

    def create_sql(
        self, model: type[Model], schema_editor: BaseDatabaseSchemaEditor, using: str = "", **kwargs: Any
    ) -> Any:
        if self.whole is None or schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, using, **kwargs)
        if not self.whole:
            return NOTHING
        return Index(fields=list(self.whole), name=self.name).create_sql(model, schema_editor, using, **kwargs)

    def deconstruct(self) -> Any:
        _, expressions, kwargs = super().deconstruct()
        return "django.db.models.Index", expressions, kwargs

    def clone(self) -> PartialIndex:
        _, expressions, kwargs = self.deconstruct()
        return type(self)(*expressions, whole=self.whole, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.deconstruct() == other.deconstruct()

    def __hash__(self) -> int:
        return hash(self.name)
