"""RateLimit: never more starts in any period than a key allows, over all workers."""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from django.utils import timezone

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.dialects import Terms, get_dialect
from django_jobqueue.dialects.draw import LONGEST
from django_jobqueue.exceptions import Snooze
from django_jobqueue.lifecycle import prune
from django_jobqueue.middleware.rate_limit import Rate, RateLimit, stock_of
from django_jobqueue.models import Attempt, Job, Limit, Permit

from ..lifecycle.steps import database_now, enqueue, fresh, take, worker
from ..worker.workers import drain, make_worker, working

PATH = "django_jobqueue.middleware.rate_limit.RateLimit"


@pytest.fixture(autouse=True, params=["apart", "at once"] if connection.vendor == "postgresql" else ["apart"])
def used(request, queue_db, settings, monkeypatch):
    """As where a pooler may stand in between, and where none does."""
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    monkeypatch.setattr(get_dialect("default"), "direct", request.param == "at once")


@task
def send(tenant=0):
    pass


started: list[float] = []


@task
def noting():
    started.append(time.monotonic())


@task
async def asend(tenant=0):
    pass


@task(atomic=True)
def atomic_send(tenant=0):
    pass


@task(max_attempts=3, backoff=0)
def fails():
    raise KeyError("no")


@task(middleware=[PATH], rate_limit="3/m", rate_key=lambda tenant: f"tenant-{tenant}")
def keyed(tenant):
    pass


def claimed(number, made=send):
    enqueue_many([made.s() for _ in range(number)])
    return take(worker(), number)


def try_to_start(job, rate="2/m", **options) -> float | None:
    job.options = {"rate_limit": rate, **options}
    try:
        RateLimit().process_job(make_worker().execution.context(job, send, lambda: None), lambda: None)
    except Snooze as snooze:
        return snooze.delay
    return None


def age(seconds: float, forget_line=True) -> None:
    """Let all the starts so far have been so many seconds earlier."""
    ago = timedelta(seconds=seconds)
    for permit in Permit.objects.all():
        Permit.objects.filter(pk=permit.pk).update(taken_at=permit.taken_at - ago)
    Limit.objects.update(line_until=None if forget_line else F("line_until") - ago)


@pytest.mark.parametrize("made", [send, asend, atomic_send], ids=["sync", "async", "atomic"])
def test_g10_no_more_start_in_any_period_than_allowed_over_several_workers(made, eventually):
    """The permits are kept for as long as they are needed: all of them, where N is as large as the number of jobs."""
    enqueue_many([made.using(rate_limit="4/s").s() for _ in range(12)])
    seen: dict[int, object] = {}

    def all_done():
        seen.update(Permit.objects.values_list("number", "taken_at"))
        return not Job.objects.unfinished().exists()

    with working(threads=3), working(threads=3), working(threads=3):
        eventually(all_done, within=40)
    seen.update(Permit.objects.values_list("number", "taken_at"))
    assert set(Job.objects.values_list("status", "tries")) == {("SUCCESSFUL", 1)}
    moments = [moment for _, moment in sorted(seen.items())]
    assert len(moments) == 12 == Limit.objects.get().started
    for first, fifth in zip(moments, moments[4:], strict=False):
        assert fifth - first >= timedelta(seconds=1)
    assert moments[-1] - moments[0] < timedelta(seconds=9)
    assert Attempt.objects.filter(outcome="snoozed").count() < 60, "they do not ask all the time"


def test_g10_threads_that_ask_at_once_get_no_more_than_there_is():
    jobs, answers = claimed(8), []

    def ask(job):
        answers.append(try_to_start(job, "3/m"))
        connection.close()

    threads = [threading.Thread(target=ask, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sum(answer is None for answer in answers) == 3 and len(answers) == 8


def test_a_job_waits_until_its_turn_is_expected():
    jobs = claimed(8)
    assert [try_to_start(job) for job in jobs[:2]] == [None, None]
    waits = [try_to_start(job) for job in jobs[2:6]]
    assert waits == sorted(waits) and 59 < waits[0] < 100 and 140 < waits[3] < 210
    assert all(try_to_start(job) <= LONGEST for job in jobs[6:])


def test_a_period_later_it_may_start():
    jobs = claimed(5)
    assert [try_to_start(job) for job in jobs[:2]] == [None, None]
    age(59)
    assert try_to_start(jobs[2]) is not None
    age(1)
    assert [try_to_start(job) for job in jobs[2:4]] == [None, None]
    assert try_to_start(jobs[4]) is not None
    assert Permit.objects.count() == 2, "those that count no more are gone"


def test_a_burst_is_spread_over_its_share_of_the_period():
    jobs = claimed(7)
    rate = {"rate": "60/m", "rate_burst": 2}
    assert [try_to_start(job, **rate) for job in jobs[:2]] == [None, None]
    assert 1 < try_to_start(jobs[2], **rate) < 4
    age(2.1)
    assert [try_to_start(job, **rate) for job in jobs[3:5]] == [None, None]
    assert try_to_start(jobs[5], **rate) is not None


def test_a_rate_that_changes_counts_what_has_started():
    jobs = claimed(6)
    assert [try_to_start(job, "2/m") for job in jobs[:2]] == [None, None]
    assert [try_to_start(job, "4/m") for job in jobs[2:5]] == [None, None, pytest.approx(65, abs=20)]
    assert try_to_start(jobs[5], "1/m") is not None


# -- many at once ---------------------------------------------------------------------------------


@pytest.fixture
def stock():
    stock_of.cache_clear()
    yield stock_of(f"rate/1s {send.module_path}", "default")
    stock_of.cache_clear()


def test_g10_a_rate_that_allows_many_is_drawn_in_portions_that_count_from_their_end(stock, django_assert_num_queries):
    """Four times as many as before, a hundredth of the rate at most; all at the last moment at which they may start."""
    jobs = claimed(12)
    assert try_to_start(jobs[0], "1000/s") is None
    assert Limit.objects.get().started == 4 and Permit.objects.get().number == 3
    assert Permit.objects.get().taken_at > timezone.now() - timedelta(seconds=5)
    before = Permit.objects.get().taken_at
    with django_assert_num_queries(0):
        keep(stock, 60)  # the machine may be slow
        assert [try_to_start(job, "1000/s") for job in jobs[1:4]] == [None] * 3
    keep(stock, 60)
    assert try_to_start(jobs[4], "1000/s") is None
    assert Limit.objects.get().started == 14, "ten more: a hundredth"
    assert Permit.objects.get(number=13).taken_at > before


def keep(stock, seconds):
    """What is in stock may be used for so long."""
    stock._portion = stock._portion._replace(until=time.monotonic() + seconds)


@pytest.mark.parametrize("number", [5, 1], ids=["several", "one"])
def test_what_is_drawn_in_advance_counts_as_if_it_started_at_the_end_of_its_time(number):
    job = claimed(1)[0]
    before = database_now()
    drawn = get_dialect("default").draw("rate/1s key", job.pk, job.fence, Terms(1000, 1.0, 1000, number, hold=300.0))
    after, permit = database_now(), Permit.objects.get()
    assert (drawn.number, Limit.objects.get().started, permit.number) == (number, number, number - 1)
    assert (permit.job_id, permit.fence) == (job.pk, job.fence)
    held = timedelta(seconds=300 if number > 1 else 0)
    assert before + held <= permit.taken_at <= after + held


@pytest.mark.skipif(connection.vendor != "postgresql", reason="there is one way on this database")
def test_g10_at_once_is_drawn_what_is_drawn_apart(monkeypatch):
    """Two keys that go through the same: terms that change, and time that passes."""
    dialect, chance, seen, lines = get_dialect("default"), random.Random(7), set(), 0
    longest = 3000.0
    for room in ("draw", "postgresql.limits"):
        monkeypatch.setattr(f"django_jobqueue.dialects.{room}.STEPS", (1.0, 1.0))
        monkeypatch.setattr(f"django_jobqueue.dialects.{room}.LONGEST", longest)
    for turn in range(120):
        # such long times that it does not matter that one key is asked some milliseconds after the other
        starts, period = chance.choice([1, 3, 20, 200]), chance.choice([990.0, 6010.0])
        number, hold = chance.choice([1, 2, 9]), chance.choice([0, 310])
        terms = Terms(starts, period, chance.randint(1, starts), number, hold)
        found = []
        for key, direct in (("rate apart", False), ("rate at-once", True)):
            monkeypatch.setattr(dialect, "direct", direct)
            drawn = dialect.draw(key, turn, turn, terms)
            permits = Permit.objects.filter(key=key).order_by("number").values_list("number", "job_id", "taken_at")
            limit = Limit.objects.get(pk=key)
            moments = [*(moment for *_, moment in permits), *filter(None, [limit.line_until])]
            found.append(([drawn.number, limit.started, [row[:2] for row in permits]], [drawn.wait, moments]))
        (apart, (wait, moments)), (at_once, (other_wait, other_moments)) = found
        assert apart == at_once, (turn, terms)
        assert wait == pytest.approx(other_wait, abs=1) or wait >= longest * 0.7 <= other_wait
        for moment, other in zip(moments, other_moments, strict=True):
            assert abs(moment - other) < timedelta(seconds=1), (turn, terms)
        seen.add(min(apart[0], 2))
        age(chance.choice([0, 0, 170, 2930]), forget_line=False)
        lines += limit.line_until is not None
    assert seen == {0, 1, 2} and lines > 10


@pytest.mark.skipif(connection.vendor == "sqlite", reason="there is no server that closes")
def test_g9_c3_a_draw_on_a_connection_that_the_server_has_closed_is_made_again():
    """The job has not begun: that the queue's own statement fails must not count against it."""
    statements = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(%s)"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL %s"),
    }
    number_of, end = statements[connection.vendor]

    def close_by_server():
        with connection.cursor() as cursor:
            cursor.execute(number_of)
            (number,) = cursor.fetchone()
        other = connections.create_connection("default")
        with other.cursor() as cursor:
            cursor.execute(end, [number])
        other.close()

    one, another = claimed(2)
    assert try_to_start(one) is None
    close_by_server()
    assert try_to_start(another) is None


class Interrupted(BaseException):
    pass


@pytest.mark.skipif(connection.vendor != "postgresql", reason="nothing is sent at once on this database")
@pytest.mark.parametrize("after", ["BEGIN", "WITH locked", "WITH gate"])
def test_g9_a_draw_that_is_interrupted_leaves_no_transaction_open(monkeypatch, after):
    """A time limit may interrupt a job anywhere, its layers too."""
    dialect, psycopg = get_dialect("default"), connection.Database
    monkeypatch.setattr(dialect, "direct", True)
    dialect.draw("rate key", 1, 1, Terms(2, 60.0, 2))

    def interrupted(execute):
        def wrapper(self, query, *args, **kwargs):
            done = execute(self, query, *args, **kwargs)
            if str(query).lstrip().startswith(after):
                raise Interrupted
            return done

        return wrapper

    with monkeypatch.context() as patch:
        for cls in (psycopg.Connection, psycopg.Cursor):
            patch.setattr(cls, "execute", interrupted(cls.execute))
        with pytest.raises(Interrupted):
            dialect.draw("rate key", 1, 1, Terms(2, 60.0, 2))
    Limit.objects.filter(pk="rate key").update(started=7)
    seen = []

    def look():
        seen.append(Limit.objects.get(pk="rate key").started)
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(20)
    assert seen == [7], "the update was committed"


def test_what_is_not_used_in_time_is_not_used_and_next_time_there_are_fewer(stock):
    jobs = claimed(3)
    assert try_to_start(jobs[0], "1000/s") is None
    keep(stock, -1)
    assert try_to_start(jobs[1], "1000/s") is None
    assert Limit.objects.get().started == 5, "four, of which one was used; so one"


def test_a_portion_that_is_too_large_for_what_is_left_is_not_drawn(stock):
    jobs = claimed(3)
    assert try_to_start(jobs[0], "1000/s") is None
    Limit.objects.update(started=1999)
    Permit.objects.update(number=1998, taken_at=timezone.now() + timedelta(minutes=1))
    keep(stock, -1)
    wait = try_to_start(jobs[1], "1000/s")
    assert wait > 50 and Limit.objects.get().started == 1999


def test_g10_a_fast_rate_holds_for_the_real_starts_over_several_workers(stock, eventually):
    enqueue_many([noting.using(rate_limit="500/s").s() for _ in range(1500)])
    started.clear()
    with working(threads=3), working(threads=3), working(threads=3):
        eventually(lambda: not Job.objects.unfinished().exists(), within=50)
    assert len(started) == 1500
    moments = sorted(started)
    # Between the permit and the first line of the task a thread may have to wait: of the one or other on a busy machine
    # that looks as if the next had come too early. Without the limit it would be a thousand.
    assert sum(later - earlier < 0.95 for earlier, later in zip(moments, moments[500:], strict=False)) < 10
    assert Permit.objects.count() < 400, "several in one row"


def test_an_atomic_task_waits_for_nobody_who_draws(stock):
    """Whoever draws may be waiting for the transaction."""
    (job,) = claimed(1)
    with stock.drawing, transaction.atomic():
        assert try_to_start(job, "1000/s") is None
    assert Limit.objects.get().started == 1


def test_each_key_has_its_own_rate():
    results = enqueue_many([keyed.s(tenant) for tenant in [1, 2] * 4])
    drain()
    done = Job.objects.filter(status="SUCCESSFUL")
    assert sorted(job.args for job in done) == [[1]] * 3 + [[2]] * 3
    waiting = Job.objects.scheduled()
    assert len(results) == 8 and waiting.count() == 2
    assert set(Limit.objects.values_list("key", flat=True)) == {"rate/60s tenant-1", "rate/60s tenant-2"}
    message = Attempt.objects.filter(outcome="snoozed").first().message
    assert message in {f"Waits for its turn in 'tenant-{number}', which has 3/m." for number in (1, 2)}


def test_each_attempt_is_a_start():
    job = enqueue(fails.using(rate_limit="2/h"))
    drain()
    assert fresh(job).tries == 2 and fresh(job).is_scheduled
    assert list(job.attempt_set.order_by("number").values_list("outcome", flat=True)) == ["retrying"] * 2 + ["snoozed"]


def test_without_the_option_nothing_is_asked(django_assert_num_queries):
    (job,) = claimed(1)
    context = make_worker().execution.context(job, send, lambda: None)
    with django_assert_num_queries(0):
        assert RateLimit().process_job(context, lambda: 42) == 42


def test_rates():
    assert Rate.parse("5/s") == (5, 1)
    assert Rate.parse("100/m") == (100, 60)
    assert Rate.parse("1000/h") == (1000, 3600)
    assert Rate.parse("10/30s") == (10, 30)
    assert Rate.parse("1/d") == (1, 86400)


@pytest.mark.parametrize(
    "given",
    [{"rate_limit": value} for value in ("", "5", "0/s", "5/0s", "5/w", "2/d ", "1/2d", 5, "-1/s", "1.5/s")]
    + [{"rate_burst": value} for value in (0, True, "2")]
    + [{"rate_key": 1}, {"rate_key": "{"}],
    ids=str,
)
def test_values_that_cannot_be_are_refused(given):
    with pytest.raises(InvalidTask, match=next(iter(given))):
        send.using(**given)


def test_prune_forgets_what_counts_no_more():
    (job,) = claimed(1)
    assert try_to_start(job) is None
    Job.objects.update(status="SUCCESSFUL", fence=None, finished_at=timezone.now())
    prune(10**6)
    assert Permit.objects.count() == 1
    Limit.objects.update(used_at=timezone.now() - timedelta(days=3))
    prune(10**6)
    assert not Limit.objects.exists() and not Permit.objects.exists()


# -- keys at the edge -----------------------------------------------------------------------------


@task(middleware=[RateLimit], rate_limit="1/h", rate_key=lambda tenant: tenant)
def by_tenant(tenant):
    pass


def test_a_callable_that_returns_none_lets_the_job_run_without_a_rate():
    for _ in range(3):
        by_tenant.enqueue(None)
    drain()
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert not Limit.objects.exists()


def test_a_blank_key_fails_the_job_with_the_reason():
    job = enqueue(by_tenant, "")
    drain()
    assert fresh(job).status == "FAILED"
    assert "made a blank key" in Attempt.objects.get(job=job).message


def test_keys_of_rates_compare_byte_by_byte():
    keys = ["ada", "Ada", "adá", "ada ", "ada\U0001f600", "ada\U0001f601"]
    for key in keys:
        by_tenant.enqueue(key)
    drain()
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert Limit.objects.count() == len(keys)
