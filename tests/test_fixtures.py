"""The fixtures of conftest.py keep what they promise."""

import os

import pytest

from .models import Effect


def test_the_database_is_at_hand(queue_db):
    Effect.objects.create(name="here")
    assert Effect.objects.count() == 1


def test_the_database_is_empty_again(queue_db):
    assert Effect.objects.count() == 0


@pytest.mark.processes
def test_a_process_works_on_the_test_database(spawn, tmp_path):
    Effect.objects.create(name="parent")
    code = "from tests.models import Effect as E; print(E.objects.get().name); E.objects.create(name='child')"
    process = spawn("shell", "-v", "0", "-c", code)
    assert process.wait(30) == 0, process.log.read_text()
    assert process.log.read_text().strip() == "parent"
    assert Effect.objects.filter(name="child").exists()


@pytest.mark.processes
def test_eventually_waits_for_a_process(spawn, eventually):
    process = spawn("shell", "-v", "0", "-c", "import os; print(os.getpid(), os.environ['WORD'])", WORD="hello")
    eventually(lambda: process.poll() is not None, within=30)
    assert process.log.read_text().split() == [str(process.pid), "hello"]
    assert process.pid != os.getpid()


def test_eventually_gives_up(eventually):
    with pytest.raises(pytest.fail.Exception, match="still 0 after"):
        eventually(lambda: 0, within=0.05)
