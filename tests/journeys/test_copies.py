"""Jobs that start processes and fork: what these take along of the worker, and how they end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Job, Worker
from tests.models import Effect

from .conftest import outcomes, statuses, unfinished, wait_for_exit
from .process_tasks import (
    CODES,
    HOW,
    asks_subprocess,
    async_forks,
    async_forks_and_awaits,
    forks,
    forks_in_thread,
    forks_in_transaction,
    leaves_process,
    terminates_children,
    uses_pool,
)
from .tasks import async_work, work

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def results(found) -> list:
    return [Job.objects.get(pk=one.id).result for one in found]


def test_g4_a_copy_that_a_job_forks_ends_with_its_function_and_takes_nothing_along(
    queue_db, start_worker, journal, eventually
):
    """One thread, and jobs claimed ahead behind the one that forks; the worker's connections are not closed either."""
    ahead = enqueue_many([work.s() for _ in range(20)])
    forked = [forks.enqueue(how) for how in HOW] + [forks_in_transaction.enqueue("exits")]
    forked += [async_forks.enqueue("exits"), async_forks.enqueue("returns"), async_forks_and_awaits.enqueue()]
    threaded = forks_in_thread.enqueue("exits")
    ahead = [*ahead, *enqueue_many([work.s() for _ in range(40)]), *enqueue_many([async_work.s() for _ in range(20)])]
    worker = start_worker("--threads", 1, options={"LEASE": 60})
    eventually(lambda: not unfinished(), within=60)
    assert statuses() == {"SUCCESSFUL": len(ahead) + len(forked) + 1}
    assert results(forked) == [*(CODES[how] for how in HOW), 3, 3, 0, 1]
    assert results([threaded]) == [[3, 3]]
    assert set(journal.started().values()) == {1}
    assert {line.pid for line in journal.starts()} == {worker.pid}
    assert sorted(Effect.objects.values_list("name", flat=True)) == ["after the fork", "by the copy", "by the parent"]
    worker.terminate()
    assert wait_for_exit(worker) == 0
    log = worker.log.read_text()
    assert "ValueError: of the copy" in log and "cannot await" in log
    for word in ("Lost connection", "gone away", "server closed", "cannot be written", "No heartbeat"):
        assert word not in log
    assert outcomes() == {"succeeded": len(ahead) + len(forked) + 1}


@pytest.mark.once
def test_g6_children_of_a_job_have_the_usual_handlers_of_signals(queue_db, start_worker, eventually):
    ended = [terminates_children.enqueue(method) for method in ("fork", "spawn", "forkserver")]
    pools = [uses_pool.enqueue(method) for method in ("fork", "spawn")]
    asked = asks_subprocess.enqueue()
    supervisor = start_worker("--processes", 2, "--threads", 6, options={"LEASE": 60})
    eventually(lambda: not unfinished(), within=60)
    assert statuses() == {"SUCCESSFUL": 6}
    assert results(ended) == [[-signal.SIGTERM] * 2] * 3
    assert results(pools) == [[1, 2, 3]] * 2
    assert results([asked]) == ["[True, True] []"], "nor the pipes to the supervisor"
    supervisor.terminate()
    assert wait_for_exit(supervisor) == 0


@pytest.mark.once
def test_g2_a_process_that_a_job_has_left_does_not_pass_for_its_worker(queue_db, start_worker, eventually):
    """It lives on, with copies of whatever the worker had open; the worker's death is noticed all the same."""
    left = leaves_process.enqueue()
    supervisor = start_worker("--processes", 2, options={"LEASE": 60})
    eventually(lambda: not unfinished() and Worker.objects.count() == 2, within=30)
    try:
        for pid in Worker.objects.values_list("pid", flat=True):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: supervisor.log.read_text().count("was ended by SIGKILL") == 2, within=30)
        eventually(lambda: Worker.objects.count() == 4, within=30)
        began = time.monotonic()
        supervisor.terminate()
        assert wait_for_exit(supervisor) == 0
        assert time.monotonic() - began < 8
    finally:
        with suppress(ProcessLookupError):
            os.kill(results([left])[0], signal.SIGKILL)
