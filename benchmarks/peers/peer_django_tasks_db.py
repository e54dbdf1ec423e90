"""django-tasks-db: one job after another, through the ORM."""

from common import django_command, django_setup, migrate

PACKAGE = "django-tasks-db"
DATABASES = ("postgresql", "sqlite", "mariadb")
KIND = "process"
SHARE = 0.02
CONFIG = "db_worker --interval 0.1 --no-startup-delay: it has no threads"
WAITING = "select count(*) from django_tasks_database_dbtaskresult where status = 'READY'"
UNFINISHED = "select exists(select 1 from django_tasks_database_dbtaskresult where status in ('READY', 'RUNNING'))"
FAILED = "select count(*) from django_tasks_database_dbtaskresult where status = 'FAILED'"
FINISHED = "select count(*) from django_tasks_database_dbtaskresult where status = 'SUCCESSFUL'"

django_setup("django_tasks_db", TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}})

from plain_tasks import TASKS  # noqa: E402


def setup():
    migrate()


def one(name, value):
    TASKS[name].enqueue(value)


def worker():
    django_command("db_worker", "-v0", "--interval=0.1", "--no-startup-delay", "--no-reload")
