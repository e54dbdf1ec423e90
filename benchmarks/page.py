"""Puts the tables of the results into a page that has a place for them, and the headline where that stands."""

from __future__ import annotations

import re

from . import cells, table
from .cells.base import RIVAL
from .entrants import OURS
from .results import Results


def updated(text: str, results: Results) -> str:
    """The text with what is between ``<!-- drain -->`` and ``<!-- /drain -->``, say, replaced by the cell's table.

    Only the cells that were measured are replaced; ``headline`` with the cell *drain*.
    """
    for cell in cells.ALL.values():
        if cell.name in results.cells():
            text = _replaced(text, cell.name, table.section(results, cell))
    if sentence := headline(results):
        text = _replaced(text, "headline", sentence)
    return text


def _replaced(text: str, name: str, new: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = f"{begin}\n\n{new.strip()}\n\n{end}"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _found: whole, text, flags=re.DOTALL)


def headline(results: Results) -> str:
    """What a worker of ours does as installed on PostgreSQL, and with the settings of production."""
    ours, rival = f"{OURS}@postgresql", f"{RIVAL}@postgresql"
    installed = results.value("drain", ours, "as installed/s")
    production = results.value("drain", ours, "production/s")
    other = results.value("drain", rival, "as installed/s")
    if not (installed and production and other):
        return ""
    ratio, ratio_in_production = installed.median / other.median, production.median / other.median
    return (
        f"In a fresh project, with nothing set, one worker process does **{installed.median:,.0f} no-op jobs a\n"
        f"second** on PostgreSQL: {ratio:.1f} times what {RIVAL} does. With all the middleware and the log that we\n"
        f"recommend for production it does {production.median:,.0f}: {ratio_in_production:.1f} times what {RIVAL}\n"
        "does, which has neither."
    )
