"""Settings for a process in which nobody has set up OpenTelemetry's SDK yet."""

from tests.settings import *  # noqa: F403

JOBQUEUE_MIDDLEWARE = ["django_jobqueue.middleware.opentelemetry.OpenTelemetry"]
