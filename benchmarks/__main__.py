"""Measures what the command line asks for, and writes the tables, the chart and the figures."""

from __future__ import annotations

import argparse
import signal
import sys

from . import adapters, cells, chart, databases, options, page, table
from .cells import Cell
from .entrants import OURS, Entrant, peer_of
from .results import Results


def main() -> None:
    args = options.parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are stopped
    if args.list:
        for cell in cells.ALL.values():
            print(f"{cell.name:10} {cell.sentence}")
        return
    results = Results.read(args.sources) if args.sources else measure(args)
    text = table.tables(results)
    print(text)
    if args.table:
        args.table.write_text(text)
    for path in args.page:
        path.write_text(page.updated(path.read_text(), results))
    if args.chart:
        args.chart.write_text(chart.drawing(results))


def measure(args: argparse.Namespace) -> Results:
    entrants = entrants_of(args)
    results = Results.new({name: getattr(args, name) for name in options.SHOWN})
    results.entrants = {entrant.name: entrant.about for entrant in entrants}
    for number in range(args.rounds):
        for cell in (cells.ALL[name] for name in args.cells):
            for entrant in turned(entrants, number):
                if number >= args.slow_rounds and entrant.is_slow:
                    continue
                if cell.suits(entrant) and not results.has_failed(cell.name, entrant.name):
                    measure_one(results, number + 1, cell, entrant)
                    if args.json:
                        results.write(args.json)
    return results


def entrants_of(args: argparse.Namespace) -> list[Entrant]:
    """Each peer on each database that both it and we can reach."""
    peers = adapters.installed([peer_of(name) for name in args.peers.split(",")] if args.peers else None)
    all_of_them = [(peer, "", about) for peer, about in peers.items()]
    all_of_them += [(OURS, name, adapters.about(OURS, path)) for name, path in args.code.items()]
    wanted = args.peers.split(",") if args.peers else list(peers)
    found = []
    for server in args.server:
        for peer, code, about in all_of_them:
            entrant = Entrant(peer, server, about, args, code)
            if databases.at(server).kind in about["databases"] and entrant.names & set(wanted):
                found.append(entrant)
    missing = [name for name in wanted if not any(name in one.names for one in found)]
    if args.peers and missing:
        sys.exit(f"not installed, or not for these databases: {', '.join(missing)}")
    return found


def turned(entrants: list[Entrant], number: int) -> list[Entrant]:
    """Another one goes first in each round."""
    first = number % len(entrants)
    return entrants[first:] + entrants[:first]


def measure_one(results: Results, number: int, cell: Cell, entrant: Entrant) -> None:
    """A peer that fails is named, and left out of the cell from then on."""
    title = f"round {number}, {cell.name}, {entrant.name}"
    try:
        figures = cell.measure(entrant)
    except Exception as error:  # whatever went wrong is this entrant's, and the others go on
        print(f"{title} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        results.add(number, cell.name, entrant.name, error=f"{type(error).__name__}: {error}"[-1000:])
        return
    results.add(number, cell.name, entrant.name, figures=figures)
    forms = {column.name: column.form for column in cell.columns}
    line = ", ".join(f"{name} {forms.get(name, '{:,.2f}').format(value)}" for name, value in figures.items())
    print(f"{title}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
