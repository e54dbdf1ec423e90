"""The results as a drawing: bars side by side, readable on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from . import cells
from .cells import Column
from .entrants import FLOOR, OURS, database_of, peer_of
from .results import Results, Value

WIDTH, MARGIN = 760, 24
NAMES = 216  # room for the names, in front of the bars
FIGURES = 80  # room for the figures, behind the longest bar
ROW, BAR, HEAD, GAP = 24, 16, 34, 22

LABELS = {OURS: "django-jobqueue", FLOOR: "floor: plain psycopg"}
STYLE = """
    text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #24292f }
    .page { fill: #ffffff; stroke: #d0d7de } .title { font-weight: 600; font-size: 14px }
    .name, .figure { dominant-baseline: central } .name { text-anchor: end } .ours { font-weight: 600 }
    .figure { font-variant-numeric: tabular-nums }
    .bar { fill: #a3b1c2 } .bar.ours { fill: #0c7a5c } .bar.floor { fill: #d9a441 } .axis { stroke: #8c959f }
    @media (prefers-color-scheme: dark) {
        text { fill: #e6edf3 } .page { fill: #161b22; stroke: #30363d } .axis { stroke: #6e7681 }
        .bar { fill: #56657a } .bar.ours { fill: #2fb68d } .bar.floor { fill: #b98a35 }
    }
"""


def drawing(results: Results) -> str:
    """SVG, with a panel for each column that has a title for one."""
    y, parts = MARGIN, []
    for cell, column in _charted(results):
        rows = _rows(results, cell, column)
        if rows[0][1]:
            parts += _panel(column, rows, y)
            y += HEAD + ROW * len(rows) + GAP
    height = y - GAP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>Benchmarks of database job queues</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _charted(results: Results) -> Iterator[tuple[str, Column]]:
    for cell in cells.ALL.values():
        for column in cell.columns:
            if column.chart and cell.name in results.cells():
                yield cell.name, column


def _rows(results: Results, cell: str, column: Column) -> list[tuple[str, Value | None]]:
    """Every queue that there is to show, best first; at the end those without a figure."""
    shown = [name for name in results.entrants if _is_shown(results, name)]
    ranking = [one for one in results.ranking(cell, column.name, less=column.less) if one[0] in shown]
    return [*ranking, *((name, None) for name in shown if name not in dict(ranking))]


def _is_shown(results: Results, name: str) -> bool:
    """Ours wherever it was measured, the others where most of them are: the tables have the rest."""
    database = database_of(name)
    return peer_of(name) == OURS or database == "postgresql" or f"{OURS}@postgresql" not in results.entrants


def _panel(column: Column, rows: Sequence[tuple[str, Value | None]], y: int) -> Iterator[str]:
    left = MARGIN + NAMES
    scale = (WIDTH - MARGIN - FIGURES - left) / max(value.median for _name, value in rows if value)
    yield f'<text class="title" x="{MARGIN}" y="{y + 14}">{escape(column.chart)}</text>'
    y += HEAD
    for number, (name, value) in enumerate(rows):
        figure = column.form.format(value.median) if value else column.missing
        yield from _row(name, figure, value.median * scale if value else 0, left, y + ROW * number)
    yield f'<line class="axis" x1="{left}" y1="{y}" x2="{left}" y2="{y + ROW * len(rows)}"/>'


def _row(name: str, figure: str, length: float, left: int, y: int) -> Iterator[str]:
    title, _at, database = name.partition("@")
    peer, _colon, code = title.partition(":")
    kind = {OURS: " ours", FLOOR: " floor"}.get(peer, "")
    label = LABELS.get(peer) or peer.replace("_", "-")
    label += f" {code}" if code else ""
    label += {"postgresql": "", "sqlite": " (SQLite)", "mariadb": " (MariaDB)"}[database]
    middle = y + ROW / 2
    yield f'<text class="name{kind}" x="{left - 10}" y="{middle}">{escape(label)}</text>'
    width, top = max(length, 1), y + (ROW - BAR) / 2
    yield f'<rect class="bar{kind}" x="{left}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>'
    yield f'<text class="figure{kind}" x="{left + width + 8:.1f}" y="{middle}">{figure}</text>'
