"""The settings of production as the documentation has them, word for word: a test holds them together.

``docs/howto/middleware.md`` has the list, ``docs/howto/deployment.md`` the logging.
"""

import json
import logging


class JSONLines(logging.Formatter):
    """One JSON object a line, with the job that the record is of, if any."""

    def format(self, record):
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "job_id", None):  # LogContext has set it
            line |= {"job": record.job_id, "task": record.job_task, "attempt": record.job_attempt}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "production.JSONLines"}},
    "handlers": {
        "file": {
            "class": "logging.handlers.WatchedFileHandler",
            "filename": "/var/log/shop/shop.log",
            "formatter": "json",
        },
    },
    "root": {"handlers": ["file"], "level": "INFO"},
    "loggers": {"django.tasks": {"level": "WARNING"}},  # django_tasks on Django 5.2; else two lines for each job
}

JOBQUEUE_MIDDLEWARE = [
    # outermost: all that follows finds connections that work
    "django_jobqueue.middleware.database_connections.DatabaseConnections",
    # who measures stands around what takes the time
    "django_jobqueue.middleware.opentelemetry.OpenTelemetry",
    "django_jobqueue.middleware.prometheus.Prometheus",
    "django_jobqueue.middleware.slow_jobs.SlowJobs",
    # who records stands around what may log or raise
    "django_jobqueue.middleware.error_context.ErrorContext",
    "django_jobqueue.middleware.log_context.LogContext",
    # who may keep a job from running: first what costs nothing, and last what is spent once it is drawn
    "django_jobqueue.middleware.age_limit.AgeLimit",
    "django_jobqueue.middleware.callbacks.Callbacks",
    "django_jobqueue.middleware.concurrency.Concurrency",  # only options: jobs wait before any layer runs
    "django_jobqueue.middleware.rate_limit.RateLimit",
    # innermost: what belongs to the task alone
    "django_jobqueue.middleware.shutdown_notifications.ShutdownNotifications",
    "django_jobqueue.middleware.locale.Locale",
    "django_jobqueue.middleware.result_policy.Results",
]
