"""The results as Markdown: a table for each cell, the best first."""

from __future__ import annotations

from . import cells
from .cells import BEST, Cell, Column
from .entrants import FLOOR, OURS, database_of, peer_of
from .results import Results, Value


def tables(results: Results) -> str:
    measured = [cell for cell in cells.ALL.values() if cell.name in results.cells()]
    return "\n".join(section(results, cell) for cell in measured)


def section(results: Results, cell: Cell) -> str:
    first = cell.columns[0]
    names = [name for name, _value in results.ranking(cell.name, first.name, less=first.less)]
    # An entrant may have no figure in the first column: a database without a server counts no statements.
    for column in cell.columns[1:]:
        others = results.ranking(cell.name, column.name, less=column.less)
        names += [name for name, _value in others if name not in names]
    columns = [column for column in cell.columns if any(_value(results, cell, name, column) for name in names)]
    rows = [["queue", *(column.name for column in columns)], ["---", *("---:" for _ in columns)]]
    rows += [[name, *(_cell(results, cell, name, column) for column in columns)] for name in names]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    left_out = sorted({m["entrant"] for m in results.measures if m["cell"] == cell.name and "error" in m})
    notes = ["", f"Failed, and left out: {', '.join(left_out)}."] if left_out else []
    return "\n".join([f"**{cell.name}**: {cell.sentence}", "", *lines, *notes, ""])


def _value(results: Results, cell: Cell, name: str, column: Column) -> Value | None:
    if column.by:
        return results.ratio(cell.name, name, column.of, _base(results, cell, name, column))
    return results.value(cell.name, name, column.name)


def _base(results: Results, cell: Cell, name: str, column: Column) -> str:
    """The entrant by whose value the column divides."""
    database = database_of(name)
    if column.by != BEST:
        return f"{column.by}@{database}"
    ranking = [found for found, _value in results.ranking(cell.name, column.of, less=column.less)]
    others = [found for found in ranking if found.endswith(f"@{database}") and peer_of(found) not in (OURS, FLOOR)]
    return others[0] if others else name


def _cell(results: Results, cell: Cell, name: str, column: Column) -> str:
    value = _value(results, cell, name, column)
    if value is None:
        return "–"
    text = column.form.format(value.median)
    least, most = column.form.format(value.least), column.form.format(value.most)
    return f"{text} ({least} to {most})" if column.is_main and least != most else text
