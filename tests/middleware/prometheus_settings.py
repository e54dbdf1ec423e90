"""Settings for workers whose numbers are fetched."""

import os

from tests.settings import *  # noqa: F403

JOBQUEUE_MIDDLEWARE = [
    "django_jobqueue.middleware.database_connections.DatabaseConnections",
    "django_jobqueue.middleware.prometheus.Prometheus",
]
JOBQUEUE_PROMETHEUS = {"PORT": int(os.environ["PORT"])}
