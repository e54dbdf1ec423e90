"""Mix: how many jobs to claim of two kinds that cannot be told apart in line."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from django_jobqueue import task
from django_jobqueue.models import Job
from django_jobqueue.worker import mix as module
from django_jobqueue.worker.mix import PROBE, Mix

from ..tasks import noop
from .workers import working

GATE = threading.Event()


def make(sync: int, coroutines: int) -> Mix:
    return Mix({False: SimpleNamespace(room=lambda: sync), True: SimpleNamespace(room=lambda: coroutines)})


def test_while_nothing_is_known_there_is_room_for_either_kind():
    assert make(4, 100).room() == 4
    assert make(100, 7).room() == 7


@pytest.mark.parametrize(("kinds", "room"), [((10, 0), 4), ((0, 10), 100), ((5, 5), 8), ((1, 9), 40)])
def test_there_is_room_for_as_many_of_both_as_there_were_of_late(kinds, room):
    mix = make(4, 100)
    mix.note(*kinds)
    assert abs(mix.room() - room) <= 1


def test_a_few_strangers_do_not_count_for_ever():
    mix = make(4, 100)
    mix.note(5, 5)
    for _ in range(10):
        mix.note(0, 10)
    assert mix.room() == 100


def test_a_kind_without_room_does_not_shut_the_other_out(monkeypatch):
    mix = make(0, 3)
    mix.note(5, 5)
    assert mix.room() == 0, "there have just been some of both"
    monkeypatch.setattr(module, "PROBE_INTERVAL", 0)
    assert mix.room() == PROBE
    kept = [mix.keeps(kind) for kind in (False, True, True, False, True, True)]
    assert kept == [False, True, True, False, True, False]
    monkeypatch.setattr(module, "PROBE_INTERVAL", 1000)
    assert mix.room() == 0, "not each time"
    assert mix.keeps(False), "what is claimed otherwise is kept"


# -- in a worker ----------------------------------------------------------------------------------


@task
def hold():
    GATE.wait(30)


@task
async def ahold():
    while not GATE.is_set():
        await asyncio.sleep(0.02)


@task
async def anoop():
    return None


@pytest.fixture
def gate(queue_db):
    GATE.clear()
    yield
    GATE.set()


@pytest.mark.parametrize(("long", "short"), [(hold, anoop), (ahold, noop)], ids=["sync", "async"])
def test_g2_jobs_of_one_kind_run_although_those_before_them_have_no_slot(gate, long, short, eventually):
    with working(threads=1, async_slots=1) as worker:
        for _ in range(5):
            long.enqueue()
        eventually(lambda: Job.objects.running().count() == 1)
        worker.claimer.mix.share = float(long is ahold)
        waiting = [short.enqueue().id for _ in range(3)]
        eventually(lambda: Job.objects.filter(pk__in=waiting, status="SUCCESSFUL").count() == 3, within=20)
        assert not Job.objects.in_line().exclude(attempts=0, tries=0).exists(), "the others were given back uncharged"
        GATE.set()
        eventually(lambda: not Job.objects.unfinished().exists(), within=20)
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}
