"""django-ox: a statement per claim, a thread pool, polling."""

from common import chunks, django_command, django_setup, migrate

PACKAGE = "django-ox"
DATABASES = ("postgresql", "sqlite", "mariadb")
KIND = "thread"
SHARE = 0.02
CONFIG = "ox_worker --concurrency 2 --interval 0.1: one process"
WAITING = "select count(*) from django_ox_oxtask where status = 'READY'"
UNFINISHED = "select exists(select 1 from django_ox_oxtask where status in ('READY', 'RUNNING'))"
FAILED = "select count(*) from django_ox_oxtask where status = 'FAILED'"
FINISHED = "select count(*) from django_ox_oxtask where status = 'SUCCESSFUL'"

django_setup("django_ox", TASKS={"default": {"BACKEND": "django_ox.backend.OxBackend"}})

from django_ox.bulk import enqueue_many  # noqa: E402
from plain_tasks import TASKS  # noqa: E402


def setup():
    migrate()


def one(name, value):
    TASKS[name].enqueue(value)


def bulk(name, values):
    for some in chunks(values):
        enqueue_many(TASKS[name], [((value,), {}) for value in some])


def worker():
    django_command("ox_worker", "-v0", "--interval=0.1", "--concurrency=2")
