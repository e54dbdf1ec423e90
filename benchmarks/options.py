"""The command line."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from . import cells, databases
from .entrants import SETTINGS

#: What of them stands beside the figures.
SHOWN = (
    "settings",
    "rounds",
    "slow_rounds",
    "jobs",
    "samples",
    "seconds",
    "rows",
    "many",
    "snapshot_jobs",
    "scheduled",
    "sleeps",
    "limit",
)
EPILOG = "Each cell is measured on a database of its own, which is created and dropped: the user must be allowed to."


def parse() -> argparse.Namespace:
    quick = " ".join(cell.name for cell in cells.ALL.values() if cell.is_quick)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures database job queues beside each other: round after round, cell after cell, in turn.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("cells", nargs="*", metavar="CELL", help=f"what to measure, or all; default: {quick}")
    add("--list", action="store_true", help="list the cells and what they measure")
    add("--server", action="append", type=server, metavar="URL",
        help="postgresql://…, mysql://… for MariaDB, sqlite or sqlite:///folder; may be given several times. "
        "Default: $DATABASE_URL, and sqlite")  # fmt: skip
    add("--peers", help="such as jobqueue,pgqueuer or jobqueue@sqlite; default: all that are installed, everywhere")
    add("--settings", type=settings, default=list(SETTINGS[:2]), metavar="NAMES",
        help=f"of a Django project, for the drain: {', '.join(SETTINGS)}; the other cells take the first that is "
        f"named. Default: {','.join(SETTINGS[:2])}")  # fmt: skip
    add("--code", action="append", type=code, default=[], metavar="NAME=PATH",
        help="measure our code from this checkout too, as jobqueue:NAME; may be given several times")  # fmt: skip
    add("--rounds", type=int, default=3, help="default %(default)s")
    add("--slow-rounds", type=int, help="of those the slow peers take part in the first ones only; default: in all")
    add("--jobs", type=int, default=10_000, help="jobs of a drain; slow peers get fewer. Default %(default)s")
    add("--samples", type=int, default=200, help="jobs of the pickup cell, ten a second; default %(default)s")
    add("--seconds", type=float, default=20, help="how long the idle cell watches; default %(default)s")
    add("--rows", type=int, default=1_000_000, help="full: finished jobs, and waiting ones; default %(default)s")
    add("--many", type=int, default=1_000_000, help="growth: jobs; default %(default)s")
    add("--snapshot-jobs", type=int, default=300_000, help="jobs of the snapshot cell; default %(default)s")
    add("--scheduled", type=int, default=100_000, help="scheduled, waiting: jobs around; default %(default)s")
    add("--sleeps", type=int, default=5000, help="jobs of the sleep cell; default %(default)s")
    add("--limit", type=float, default=600, help="seconds after which a drain has failed; default %(default)s")
    add("--prefix", default="benchmark", help="how the names of the databases begin; default %(default)s")
    add("--json", type=Path, metavar="FILE", help="write every figure of every round")
    add("--table", type=Path, metavar="FILE", help="write the tables, in Markdown, beside printing them")
    add("--chart", type=Path, metavar="FILE.svg", help="draw the most telling of them")
    add("--page", type=Path, action="append", default=[], metavar="FILE.md",
        help="renew the tables between <!-- CELL --> and <!-- /CELL -->; may be given several times")  # fmt: skip
    add("--from", type=Path, nargs="+", dest="sources", metavar="FILE", help="measure nothing, read these JSON files")
    options = parser.parse_args()
    options.cells = [cell.name for cell in chosen(parser, options.cells)]
    options.slow_rounds = options.rounds if options.slow_rounds is None else options.slow_rounds
    options.code = dict(options.code)
    options.server = options.server or default_servers()
    if not re.fullmatch(r"[a-z_]\w*", options.prefix):
        parser.error("--prefix becomes part of a name in SQL: letters, digits and _ only")
    return options


def server(text: str) -> str:
    try:
        databases.at(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def settings(text: str) -> list[str]:
    if unknown := set(names := text.split(",")) - set(SETTINGS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(SETTINGS)}")
    return [name for name in SETTINGS if name in names]


def code(text: str) -> tuple[str, Path]:
    name, _equals, path = text.partition("=")
    if not path or not name.isidentifier() or not (found := Path(path).resolve() / "django_jobqueue").is_dir():
        raise argparse.ArgumentTypeError(f"{text}: not NAME=PATH with a folder that has django_jobqueue")
    return name, found.parent


def default_servers() -> list[str]:
    url = os.environ.get("DATABASE_URL", "")
    return [url, "sqlite"] if url and not url.startswith("sqlite") else ["sqlite"]


def chosen(parser: argparse.ArgumentParser, names: list[str]) -> list[cells.Cell]:
    if unknown := set(names) - {*cells.ALL, "all"}:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}. There are {', '.join(cells.ALL)}")
    if not names:
        return [cell for cell in cells.ALL.values() if cell.is_quick]
    return [cell for cell in cells.ALL.values() if "all" in names or cell.name in names]
