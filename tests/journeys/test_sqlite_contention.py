"""SQLite: many processes write to one file, with the settings that the documentation asks for."""

from __future__ import annotations

import pytest
from django.db import connection

from .conftest import outcomes, statuses, unfinished, wait_for_exit

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

PRODUCERS, EACH = 4, 60

PRODUCE = """
from django.db import transaction
from django_jobqueue.models import Job
from tests.models import Effect
from tests.journeys.tasks import work
for number in range({each}):
    with transaction.atomic():
        seen = Effect.objects.filter(name="{name}").count()  # the read that a deferred transaction would start with
        assert seen == number, (seen, number)
        Effect.objects.create(name="{name}", value=number)
        work.enqueue()
print("enqueued", {each})
"""


def test_g1_producers_beside_workers_never_find_the_database_locked(queue_db, start_worker, journal, eventually):
    """A read, a write and an enqueue in one transaction, beside workers that claim and finish. On every database."""
    crew = [start_worker() for _ in range(2)]
    producers = [
        start_worker("-v", 0, "-c", PRODUCE.format(each=EACH, name=f"producer {number}"), command="shell")
        for number in range(PRODUCERS)
    ]
    codes = [wait_for_exit(process, 60) for process in producers]
    assert codes == [0] * PRODUCERS, [process.log.read_text()[-2000:] for process in producers]
    eventually(lambda: not unfinished(), within=30)
    assert statuses() == {"SUCCESSFUL": PRODUCERS * EACH}
    assert outcomes() == {"succeeded": PRODUCERS * EACH}
    for process in crew:
        process.terminate()
        assert wait_for_exit(process) == 0
        assert "locked" not in process.log.read_text()


def test_the_settings_are_those_of_the_documentation(db):
    if connection.vendor != "sqlite":
        pytest.skip("for SQLite only")
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert cursor.execute("PRAGMA busy_timeout").fetchone()[0] >= 5000
    assert connection.transaction_mode == "IMMEDIATE"
