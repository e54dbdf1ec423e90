"""Marks that several modules use."""

import pytest

from .subjects import chosen

#: For tests that let a worker run: its threads see what has been committed, so the database is emptied afterwards; of
#: the subject's tables alone, which takes a fraction of the time.
runs = pytest.mark.django_db(transaction=True, available_apps=list(chosen().apps))
