"""Run the checks, then the whole suite once on every database within reach. ``scripts/test`` is the door.

SQLite and a PostgreSQL 18 out of a wheel always run: if one cannot, that is a failure. Servers on localhost that let
us in without a password join, and so do those that DATABASE_URL and TEST_DATABASE_URLS name. MariaDB and MySQL are
reached through mysqlclient, Django's own driver, where it could be built, and then PyMySQL gets only what depends on
the driver; without mysqlclient the whole suite runs through PyMySQL. One suite more than there are processors runs at a
time, and the checks beside them: queue tests spend much of their time waiting.

Journeys, the tests that start processes, take most of the time. All of them run on SQLite, on MariaDB or MySQL, and on
one PostgreSQL, a server rather than the one out of the wheel; a further PostgreSQL, and each suite with
``--journeys core``, runs the core ones only. ``--journeys all`` runs all of them everywhere.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit
from xml.etree import ElementTree

from . import databases

ROOT = Path(__file__).parent.parent
PATIENCE = 3600.0  # seconds for one suite; far more than it needs, even beside others on a slow machine
AT_ONCE = 1 + (os.cpu_count() or 1)  # suites; with more of them a worker under test may lose its lease to the load
#: For pytest's -m: all tests but journeys, and the core ones of these.
CORE = "not processes or core"
KEYS = ("sqlite", "pg18", "postgresql", "mariadb", "mysql")
#: What depends on the driver: it runs through each of them.
DRIVER_TESTS = ["tests/dialects", "tests/conformance", "tests/journeys/test_database_faults.py"]
GET_MYSQLCLIENT = (
    "the whole suite ran through PyMySQL. Get what mysqlclient is built from, then run again: "
    "apt-get install default-libmysqlclient-dev pkg-config gcc python3-dev"
)
SAID = 300  # characters of a failure in the summary
COUNTS = ("failed", "passed", "skipped", "errors")

CHECKS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy"],
    "codespell": ["-m", "codespell_lib"],
    "import-linter": ["-c", "from importlinter.cli import lint_imports_command as run; run()"],
    "makemigrations": ["manage.py", "makemigrations", "django_jobqueue", "--check", "--dry-run"],
    "docs": ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"],
}

running_suites: list[subprocess.Popen[bytes]] = []


@dataclass
class Verdict:
    """What came of one check, or of the suite on one database."""

    name: str
    ok: bool
    note: str
    counts: dict[str, int] = field(default_factory=dict)
    #: The tests that failed, and what they said: a log of thousands of lines gets cut where somebody keeps it.
    failures: list[str] = field(default_factory=list)
    ran: bool = True

    def __str__(self) -> str:
        word = ("passed" if self.ok else "FAILED") if self.ran else "NOT RUN"
        return f"{word}  {self.name}: {self.note}"


@dataclass
class Suite:
    """pytest on one database."""

    url: str
    pytest_args: list[str]
    driver: str | None = None
    core: bool = False

    @property
    def arguments(self) -> list[str]:
        return [*(("-m", CORE) if self.core else ()), *self.pytest_args]

    def environment(self) -> dict[str, str]:
        env = {**os.environ, "DATABASE_URL": self.url}
        if self.driver is not None:
            env[databases.DRIVER_VARIABLE] = self.driver
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the same modules
        return env


def main() -> int:
    options, pytest_args = parse()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what runs in its background
    started = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(1) as beside:
        running = [] if options.fast else [beside.submit(run_check, name) for name in checks_to_run()]
        found, missing = find_databases(options.only, stack)
        suites = run_suites(plan_suites(found, pytest_args, options.journeys)) + missing
        checks = [check.result() for check in running]
        suites += missing_driver(found)
    print_summary(checks, suites, time.monotonic() - started)
    if options.totals:
        write_totals(options.totals, suites)
    return 0 if suites and all(verdict.ok for verdict in checks + suites) else 1


def terminate(*_: object) -> NoReturn:
    """End the suites too, and as Ctrl-C does: what they have started, and what we have, is stopped then."""
    for process in running_suites:
        process.send_signal(signal.SIGINT)
    sys.exit(143)


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description=__doc__,
        epilog="Everything else goes to pytest: scripts/test tests/lifecycle -k reap",
        allow_abbrev=False,
    )
    parser.add_argument("--fast", action="store_true", help="only the suite: no lint, no types, no docs")
    parser.add_argument("--only", action="append", choices=KEYS, help="only on this database; may be repeated")
    parser.add_argument("--journeys", choices=("core", "all"), help="which journeys every suite runs")
    parser.add_argument("--totals", type=Path, help="append the names and totals to this file, for another program")
    return parser.parse_known_args()


# --- checks


def checks_to_run() -> list[str]:
    return [name for name in CHECKS if name != "docs" or Path("docs/conf.py").exists()]


def run_check(name: str) -> Verdict:
    result = subprocess.run(
        [sys.executable, *CHECKS[name]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    ok = result.returncode == 0
    say(f"{name}: {'ok' if ok else 'FAILED'}\n" + ("" if ok else result.stdout.decode(errors="replace")))
    return Verdict(name, ok, "ok" if ok else "FAILED")


# --- databases


def find_databases(only: list[str] | None, stack: ExitStack) -> tuple[list[str], list[Verdict]]:
    """The URLs to run on, and a verdict for each database that should be there and is not."""
    found: dict[str, str] = {}  # several servers of one kind: the URL is the key
    missing: list[Verdict] = []
    wanted = only or KEYS
    for key, start in (("sqlite", databases.sqlite_file), ("pg18", databases.embedded_postgresql)):
        if key in wanted:
            try:
                found[stack.enter_context(start())] = key
            except Exception as error:
                missing.append(absent(key, error))
    if set(wanted) - {"sqlite", "pg18"}:
        for url in servers():
            try:
                key = databases.describe(url).split()[0].lower()
            except Exception as error:
                missing.append(absent(":".join(map(str, databases.address(url))), error))
            else:
                if key in wanted:
                    found[url] = key
    missing += [absent(key) for key in set(only or ()) - {"sqlite", "pg18", *found.values()}]
    return list(found), missing


def absent(name: str, error: Exception | str = "no such server") -> Verdict:
    return Verdict(name, False, f"MISSING, {' '.join(str(error).split())}")


def servers() -> Iterator[str]:
    """The servers that the environment names, then those on localhost that it does not."""
    text = f"{os.environ.get('DATABASE_URL', '')} {os.environ.get('TEST_DATABASE_URLS', '')}"
    named = [url for url in dict.fromkeys(re.split(r"[,\s]+", text)) if url and not url.startswith("sqlite")]
    yield from named
    known = {databases.address(url) for url in named}
    yield from (url for url in databases.on_localhost() if databases.address(url) not in known)


# --- suites


def plan_suites(urls: list[str], pytest_args: list[str], journeys: str | None = None) -> list[Suite]:
    """Return the suites to run, short ones last."""
    suites = [Suite(url, pytest_args) for url in urls]
    postgresql = [suite for suite in suites if urlsplit(suite.url).scheme in databases.POSTGRES]
    for suite in suites:
        suite.core = journeys == "core" or (journeys is None and suite in postgresql[:-1])  # servers are found last
    suites.sort(key=lambda suite: suite.core)
    if databases.mysql_driver() == databases.PYMYSQL:
        return suites
    chosen = any(Path(argument.partition("::")[0]).exists() for argument in pytest_args)
    arguments = pytest_args if chosen else [*pytest_args, *DRIVER_TESTS]
    return suites + [
        Suite(databases.renamed(url, "_pymysql"), arguments, databases.PYMYSQL) for url in urls if is_mysql(url)
    ]


def is_mysql(url: str) -> bool:
    return urlsplit(url).scheme in databases.MYSQL


def missing_driver(urls: list[str]) -> list[Verdict]:
    """Say it aloud if mysqlclient, which most users have, should have been there."""
    if databases.has_mysqlclient():
        return []
    names = [databases.describe(url).rpartition(" through ")[0] for url in urls if is_mysql(url)]
    return [Verdict(f"{name} through mysqlclient", True, GET_MYSQLCLIENT, ran=False) for name in names]


def run_suites(suites: list[Suite]) -> list[Verdict]:
    if len(suites) == 1:  # one alone may talk while it runs
        return [run_suite(suites[0], talk=True)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(run_suite, suites))


def run_suite(suite: Suite, talk: bool = False) -> Verdict:
    name, began = databases.describe(suite.url, suite.driver), time.monotonic()
    say(f"{name}: started")
    with tempfile.TemporaryDirectory(prefix="jobqueue-") as directory:
        report, log = Path(directory, "report.xml"), Path(directory, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", f"--junitxml={report}", *suite.arguments],
                env=suite.environment(),
                stdin=subprocess.DEVNULL,
                stdout=None if talk else output,
                stderr=None if talk else subprocess.STDOUT,
            )
            running_suites.append(process)
            try:
                exit_code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                exit_code = process.wait()
            running_suites.remove(process)
        if not talk:
            say(f"\n{f' {name} ':#^100}\n{log.read_text(errors='replace')}")
        counts, failures = read_report(report)
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no tests"
    if exit_code not in (0, 1):
        words = f"pytest gave up (exit {exit_code}), {words}"
    return Verdict(name, exit_code == 0, f"{words}, {time.monotonic() - began:.0f} s", counts, failures)


def read_report(path: Path) -> tuple[dict[str, int], list[str]]:
    counts = dict.fromkeys(COUNTS, 0)
    failures: list[str] = []
    if not path.exists():
        return counts, failures
    for suite in ElementTree.parse(path).iter("testsuite"):
        failed, skipped, errors = (int(suite.get(name, 0)) for name in ("failures", "skipped", "errors"))
        counts["failed"] += failed
        counts["skipped"] += skipped
        counts["errors"] += errors
        counts["passed"] += int(suite.get("tests", 0)) - failed - skipped - errors
        for case in suite.iter("testcase"):
            for what in (*case.iter("failure"), *case.iter("error")):
                said = " ".join(what.get("message", "").split())
                failures.append(f"{case.get('classname')}::{case.get('name')}: {said[:SAID]}")
    return counts, failures


# --- the end


def print_summary(checks: list[Verdict], suites: list[Verdict], seconds: float) -> None:
    lines = ["", f"{versions()}, {seconds:.0f} s"]
    if checks:
        lines.append("checks: " + ", ".join(f"{check.name} {check.note}" for check in checks))
    for suite in suites:
        lines += [str(suite), *(f"    {failure}" for failure in suite.failures)]
    say("\n".join(lines))


def versions() -> str:
    return f"Python {platform.python_version()}, Django {metadata.version('django')}"


def write_totals(path: Path, suites: list[Verdict]) -> None:
    with path.open("a") as file:
        for suite in suites:
            numbers = [suite.counts.get(word, 0) for word in COUNTS]
            print(versions(), suite, *numbers, *suite.failures, sep="\t", file=file)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
