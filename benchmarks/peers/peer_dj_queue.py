"""dj-queue: Solid Queue's tables in Django; threads with prefetched jobs, woken by NOTIFY."""

from common import chunks, django_command, django_setup, migrate

PACKAGE = "dj-queue"
DATABASES = ("postgresql", "sqlite", "mariadb")
KIND = "thread"
SHARE = 0.03
CONFIG = """dj_queue --mode async --only-work: one process, 8 threads, prefetch_multiplier 10, polling every 0.1 s
    beside LISTEN"""
WAITING = "select count(*) from dj_queue_ready_executions"
UNFINISHED = """select exists(select 1 from dj_queue_ready_executions)
    or exists(select 1 from dj_queue_claimed_executions)"""
FAILED = "select count(*) from dj_queue_failed_executions"
FINISHED = "select count(*) from dj_queue_jobs where finished_at is not null"
POINT = "select job_id from dj_queue_ready_executions order by job_id limit 1 offset {number}"
PASSED = "select exists(select 1 from dj_queue_jobs where id = {id} and finished_at is not null)"

WORKER = {"queues": "*", "threads": 8, "prefetch_multiplier": 10, "polling_interval": 0.1}

django_setup(
    "dj_queue",
    DATABASE_ROUTERS=["dj_queue.routers.DjQueueRouter"],
    TASKS={"default": {"BACKEND": "dj_queue.backend.DjQueueBackend", "OPTIONS": {"workers": [WORKER]}}},
)

from plain_tasks import TASKS  # noqa: E402


def setup():
    migrate()


def one(name, value):
    TASKS[name].enqueue(value)


def bulk(name, values):
    for some in chunks(values):
        TASKS[name].get_backend().enqueue_all([(TASKS[name], [value], {}) for value in some])


def worker():
    django_command("dj_queue", "--mode", "async", "--only-work")
