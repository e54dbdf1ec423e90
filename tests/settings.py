"""Settings for the tests. ``DATABASE_URL`` picks the database; without it, a SQLite file."""

import os
import tempfile
from pathlib import Path
from typing import Any

import django
import environ

from .databases import install_mysql_driver

SECRET_KEY = "not a secret"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SILENCED_SYSTEM_CHECKS = ["models.W037"]  # MariaDB and MySQL have no partial indexes; their migration makes whole ones

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    *([] if django.VERSION >= (6, 0) else ["django_tasks"]),
    "django_jobqueue",
    "tests",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick, for users who last one test

TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": []}}


def _database(url: str) -> dict[str, Any]:
    config: dict[str, Any] = environ.Env.db_url_config(url)
    if config["ENGINE"].endswith("sqlite3"):
        # As the documentation tells people to set it: several threads and processes write to one file.
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
        name = Path(config["NAME"])
        config["TEST"] = {"NAME": str(name.with_name(f"test_{name.name}"))}  # a file: threads do not share memory
    elif config["ENGINE"].endswith("mysql"):
        config["TEST"] = {"CHARSET": "utf8mb4"}
        install_mysql_driver()
    # A process that a test starts is told the test database's own name (see worker_env in conftest.py).
    config["NAME"] = os.environ.get("JOBQUEUE_TEST_DATABASE", config["NAME"])
    return config


DATABASES = {
    "default": _database(
        # A name of its own for each process, so that two runs at once do not meet.
        os.environ.get("DATABASE_URL") or f"sqlite:///{tempfile.gettempdir()}/django_jobqueue_{os.getpid()}.sqlite3"
    )
}

JOBQUEUE_TASK_MODULES_EXCLUDE = ["tests.journeys"]  # for workers with settings of their own
