"""Settings for the worker processes of the journeys: those of the tests, with what a test wants otherwise."""

import importlib
import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

ENVIRONMENT = "DJANGO_JOBQUEUE_LINK"

#: The hundreds of processes that the journeys start need no admin: without it each is there a quarter sooner.
OF_THE_ADMIN = {f"django.contrib.{name}" for name in ("admin", "messages", "sessions", "staticfiles")}
INSTALLED_APPS = [*(app for app in INSTALLED_APPS if app not in OF_THE_ADMIN), "tests.journeys"]
MIDDLEWARE, TEMPLATES = [], []
ROOT_URLCONF = "tests.journeys.urls"

TASKS = {
    "default": {
        "BACKEND": "django_jobqueue.backend.JobQueueBackend",
        "QUEUES": [],
        "OPTIONS": json.loads(os.environ.get("JOURNEY_OPTIONS", "{}")),
    }
}

if "JOURNEY_PORT" in os.environ:  # a database server that the test has started itself
    DATABASES["default"]["PORT"] = os.environ["JOURNEY_PORT"]

JOBQUEUE_TASK_MODULES_EXCLUDE = []

if {"JOURNEY_IMPORT", ENVIRONMENT} <= set(os.environ):  # in the processes of a supervisor, and not in its own
    importlib.import_module(os.environ["JOURNEY_IMPORT"])
