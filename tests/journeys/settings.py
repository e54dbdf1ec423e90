"""Settings for the worker processes of the journeys: those of the tests, with what a test wants otherwise."""

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.journeys"]

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
