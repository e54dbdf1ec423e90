"""Claim, lanes, promote, release."""

from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.db.models.signals import post_init
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from django_jobqueue.dialects import Lane, get_dialect
from django_jobqueue.lifecycle import (
    QueueSelector,
    claim,
    in_order,
    lanes_in_order,
    next_due,
    pause,
    promote,
    release,
    resume,
)
from django_jobqueue.lifecycle.claim import ATTEMPTS_READ, attach_past_attempts, isolated_waiting, note_queues
from django_jobqueue.models import Attempt, Job, Queue

from ..tasks import add, noop
from .steps import USING, attempts, end, enqueue, fresh, retrying, take, take_one, tick, worker

no_deadline = settings(deadline=None)  # a busy machine may stand still for a while

# -- which queues ---------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=",*="), min_size=1, max_size=20).filter(
    lambda name: name == name.strip()
)


@no_deadline
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_a_selector_ranks_queues_in_the_order_they_are_named(names):
    selector = QueueSelector.parse(",".join(names))
    assert [selector.rank(name) for name in names] == list(range(len(names)))


@no_deadline
@given(NAMES, NAMES)
def test_a_name_selects_that_queue_only(name, other):
    assert QueueSelector.parse(name).rank(other) == (0 if name == other else None)


@no_deadline
@given(NAMES, st.text(max_size=20))
def test_a_prefix_selects_what_begins_with_it(prefix, rest):
    assert QueueSelector.parse(f"{prefix}*").rank(prefix + rest) == 0


@no_deadline
@given(NAMES)
def test_an_empty_selector_and_a_star_select_everything(name):
    assert QueueSelector.parse("").rank(name) == QueueSelector.parse("*").rank(name) == 0


@no_deadline
@given(NAMES, NAMES)
def test_the_first_pattern_that_matches_counts(name, other):
    assert QueueSelector.parse(f"{name},{other},*").rank(name) == 0
    assert QueueSelector.parse(f"*,{name}").rank(name) == 0


@pytest.mark.parametrize("text", ["a,,b", ",", "a*b", "**", "a,*b", "a, ,b"])
def test_a_selector_that_says_nothing_sensible_is_refused(text):
    with pytest.raises(ValueError, match="queue's name"):
        QueueSelector.parse(text)


def test_blanks_around_names_do_not_matter():
    assert QueueSelector.parse(" mail , images* ") == QueueSelector(("mail", "images*"))
    assert QueueSelector.parse("   ") == QueueSelector()


def test_a_selector_reads_as_it_was_written():
    assert str(QueueSelector.parse("mail,images*")) == "mail, images*"
    assert str(QueueSelector()) == "all"


@pytest.mark.parametrize("text", ["a=", "a=0", "a=x", "=3", "a=1.5", "a=-1", "a=1001", "a=1=2"])
def test_a_weight_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"weight|name"):
        QueueSelector.parse(text)


def test_weights_are_read_and_written():
    selector = QueueSelector.parse("urgent, mail=3 ,images*=1")
    assert selector == QueueSelector(("urgent", "mail", "images*"), (0, 3, 1))
    assert str(selector) == "urgent, mail=3, images*=1"
    assert selector.rank("images-large") == 2


def test_queues_with_weights_come_first_in_proportion():
    selector = QueueSelector.parse("urgent,mail=3,images*=1,rest")
    lanes = [Lane("rest", 9), Lane("images", 0), Lane("images", 5), Lane("mail", -3), Lane("urgent", -9)]
    orders = [in_order(selector, lanes) for _ in range(4000)]
    assert {order[0] for order in orders} == {Lane("urgent", -9)} and {order[-1] for order in orders} == {lanes[0]}
    assert all(order.index(lanes[2]) < order.index(lanes[1]) for order in orders), "priorities hold within a pattern"
    share = sum(order[1] == Lane("mail", -3) for order in orders) / len(orders)
    assert 0.7 < share < 0.8  # six standard deviations


# -- lanes ----------------------------------------------------------------------------------------


def lanes(selector: str = "", turn: int = 0) -> list[tuple[str, int]]:
    return [tuple(lane) for lane in lanes_in_order(QueueSelector.parse(selector), USING, turn)]


@pytest.fixture
def busy_queues(db):
    for name, priority in [("a", 0), ("b", 5), ("b", 0), ("c", 0), ("c", -5)]:
        for _ in range(2):
            enqueue(noop.using(queue_name=name, priority=priority))


def test_higher_priorities_come_first(busy_queues):
    assert lanes() == [("b", 5), ("a", 0), ("b", 0), ("c", 0), ("c", -5)]


def test_the_order_of_the_patterns_comes_before_priorities(busy_queues):
    assert lanes("c,a,b*") == [("c", 0), ("c", -5), ("a", 0), ("b", 5), ("b", 0)]


def test_queues_that_are_not_selected_have_no_lane(busy_queues):
    assert lanes("b") == [("b", 5), ("b", 0)]
    assert lanes("x*") == []


def test_equal_lanes_take_turns_and_nothing_else_does(busy_queues):
    orders = [lanes(turn=turn) for turn in range(4)]
    assert [order[1:4] for order in orders] == [
        [("a", 0), ("b", 0), ("c", 0)],
        [("b", 0), ("c", 0), ("a", 0)],
        [("c", 0), ("a", 0), ("b", 0)],
        [("a", 0), ("b", 0), ("c", 0)],
    ]
    assert {(order[0], order[4]) for order in orders} == {(("b", 5), ("c", -5))}


def test_a_paused_queue_has_no_lane_until_it_is_resumed(busy_queues):
    pause("b")
    assert lanes() == [("a", 0), ("c", 0), ("c", -5)]
    resume("b")
    assert ("b", 5) in lanes()


@pytest.mark.django_db
def test_scheduled_running_and_finished_jobs_make_no_lane():
    enqueue(noop.using(queue_name="later", run_after=timedelta(hours=1)))
    enqueue(noop.using(queue_name="busy"))
    take_one(worker())
    assert lanes() == []


@pytest.mark.django_db
def test_queues_are_noted_once():
    note_queues({"a", "b"}, USING)
    pause("a")
    note_queues({"a", "c"}, USING)
    assert set(Queue.objects.values_list("name", flat=True)) == {"a", "b", "c"}
    assert Queue.objects.get(name="a").is_paused


# -- claim ----------------------------------------------------------------------------------------


def test_a_queue_that_was_paused_since_the_look_is_left_alone(busy_queues):
    before = lanes()
    pause("b")
    taken = get_dialect(USING).claim([Lane(*lane) for lane in before], 100, worker().pk, 7)
    assert taken and {job.queue_name for job in taken} == {"a", "c"}


def test_jobs_are_claimed_lane_by_lane_and_in_the_order_of_their_places(busy_queues):
    taken = take(worker(), 7, "c,b")
    assert [(job.queue_name, job.priority) for job in taken] == [
        *[("c", 0)] * 2,
        *[("c", -5)] * 2,
        *[("b", 5)] * 2,
        ("b", 0),
    ]
    assert all(
        one.pk < two.pk for one, two in zip(taken[::2], taken[1::2], strict=False) if one.priority == two.priority
    )


@pytest.mark.django_db
def test_a_claimed_job_is_running_and_held():
    holder, job = worker(), enqueue(add, 1, 2)
    before = timezone.now()
    taken = take_one(holder)
    row = fresh(job)
    assert row.status == taken.status == Job.Status.RUNNING
    assert row.worker_id == taken.worker_id == holder.pk
    assert row.fence == taken.fence and taken.fence is not None
    assert (row.attempts, row.tries) == (taken.attempts, taken.tries) == (1, 1)
    assert abs(row.started_at - before) < timedelta(seconds=5)
    assert (taken.args, taken.kwargs, taken.task_path) == ([1, 2], {}, "tests.tasks.add")


@pytest.mark.django_db
def test_g3_a_job_is_claimed_once():
    enqueue()
    assert len(take(worker(), 5)) == 1
    assert take(worker(), 5) == []


@pytest.mark.django_db
def test_every_claim_draws_another_fence():
    enqueue(), enqueue()
    holder = worker()
    assert take_one(holder).fence != take_one(holder).fence


@pytest.mark.django_db
@pytest.mark.parametrize("limit", [0, -1])
def test_no_room_claims_nothing(limit):
    enqueue()
    assert take(worker(), limit) == []
    assert Job.objects.in_line().count() == 1


@pytest.mark.django_db
def test_no_lanes_claim_nothing():
    enqueue()
    assert claim([], 5, worker().pk, USING) == []


@pytest.mark.django_db
def test_a_claim_takes_no_more_than_its_limit():
    for _ in range(5):
        enqueue()
    assert len(take(worker(), 3)) == 3
    assert Job.objects.in_line().count() == 2


@pytest.mark.django_db
def test_a_job_brings_its_past_attempts_along():
    enqueue(noop.using(max_attempts=3))
    holder = worker()
    first = take_one(holder)
    assert first.past_attempts == ()
    end(first, retrying())
    again = take_one(holder)
    assert again.attempts == 2
    assert [attempt.number for attempt in again.past_attempts] == [1]


@pytest.mark.django_db
def test_a_job_with_a_long_history_brings_the_latest_of_it_along():
    """A job that is snoozed every minute must not make claims longer and longer."""
    job, other = enqueue(), enqueue()
    give_history(job, 300)
    give_history(other, 2)
    read = []
    with patch_reads(read):
        taken = {one.pk: one for one in take(worker(), 2)}
    assert len(read) == ATTEMPTS_READ + 1 + 2
    past = taken[job.pk].past_attempts
    assert [attempt.number for attempt in past] == [1, *range(301 - ATTEMPTS_READ, 301)]
    assert [attempt.number for attempt in taken[other.pk].past_attempts] == [1, 2]
    # what is left of a history that was folded is no more than once there
    Attempt.objects.filter(job_id=job.pk, number__range=(2, 295)).delete()
    attach_past_attempts([taken[job.pk]], USING)
    assert [attempt.number for attempt in taken[job.pk].past_attempts] == [1, *range(296, 301)]


@pytest.mark.django_db
def test_a_result_tells_of_the_latest_attempts_and_of_the_number_of_all():
    job = enqueue()
    give_history(job, 300)
    result = noop.get_result(str(job.pk))
    assert result.attempts == 300 and len(result.worker_ids) == ATTEMPTS_READ + 1
    assert result.started_at < result.last_attempted_at
    take_one(worker())
    result.refresh()
    assert result.attempts == 301 and result.last_attempted_at == fresh(job).started_at


def give_history(job: Job, number: int) -> None:
    times = [timezone.now() - timedelta(minutes=number - one) for one in range(number)]
    Attempt.objects.bulk_create(
        Attempt(job_id=job.pk, number=one, worker_id=1, started_at=at, finished_at=at, outcome="snoozed")
        for one, at in enumerate(times, 1)
    )
    Job.objects.filter(pk=job.pk).update(attempts=number)


@contextmanager
def patch_reads(read: list[Attempt]):
    """Note each attempt that is read."""

    def note(sender, instance, **kwargs):
        read.append(instance)

    post_init.connect(note, sender=Attempt)
    yield
    post_init.disconnect(note, sender=Attempt)


@pytest.mark.django_db
def test_jobs_that_must_run_alone_are_claimed_only_when_asked_for():
    lonely, other = enqueue(), enqueue()
    Job.objects.filter(pk=lonely.pk).update(place=-5)
    holder = worker()
    line = lanes_in_order(QueueSelector(), USING)
    assert isolated_waiting(line, USING)
    assert [job.pk for job in take(holder, 5)] == [other.pk]
    assert [job.pk for job in take(holder, 5, isolated=True)] == [lonely.pk]
    assert not isolated_waiting(line, USING)


@pytest.mark.django_db
def test_g9_a_job_that_has_been_run_very_often_does_not_stop_its_queue():
    """Snoozed once a second, a job comes to its 32768th attempt within half a day."""
    worn = enqueue()
    Job.objects.filter(pk=worn.pk).update(attempts=32_767)
    other = enqueue()
    taken = take(worker(), 5)
    assert {job.pk for job in taken} == {worn.pk, other.pk}
    for job in taken:
        end(job, retrying())
    assert attempts(worn)[-1].number == 32_768


# -- malformed rows -------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(("column", "value"), [("args", {"a": 1}), ("args", "text"), ("kwargs", [1]), ("kwargs", 3)])
def test_g9_a_row_that_is_no_call_is_found_out_when_it_is_decoded_and_not_before(column, value):
    bad, good = enqueue(), enqueue()
    Job.objects.filter(pk=bad.pk).update(**{column: value})
    lane = lanes_in_order(QueueSelector(), USING)
    one, two = claim(lane, 5, worker().pk, USING)
    assert (one.pk, two.pk) == (bad.pk, good.pk)
    with pytest.raises(ValueError):
        one.decode()
    two.decode()
    assert (two.args, two.kwargs) == ([], {})


@pytest.mark.django_db
def test_decoding_twice_changes_nothing():
    enqueue(add, "1", "[2]")
    job = take_one(worker())
    job.decode()
    assert job.args == ["1", "[2]"]


# -- promote --------------------------------------------------------------------------------------


def due_in(seconds: float) -> Job:
    """A job that is scheduled for so long from now by the database's clock."""
    job = enqueue(noop.using(run_after=timedelta(days=1)))
    Job.objects.filter(pk=job.pk).update(run_after=Now() + timedelta(seconds=seconds))
    return job


@pytest.mark.django_db
def test_promote_puts_in_line_what_is_due_and_nothing_else():
    due, later = due_in(-1), due_in(60)
    assert promote(USING) == 1
    assert not fresh(due).is_scheduled and fresh(due).place > 0
    assert fresh(later).is_scheduled
    assert promote(USING) == 0


@pytest.mark.django_db
def test_g15_promote_goes_by_the_databases_clock(monkeypatch):
    """A worker whose clock is a day ahead does not start tomorrow's jobs today."""
    job = due_in(60)
    tomorrow = timezone.now() + timedelta(days=1)
    monkeypatch.setattr("django.utils.timezone.now", lambda: tomorrow)
    assert promote(USING) == 0
    assert fresh(job).is_scheduled


@pytest.mark.django_db
def test_a_job_that_came_due_stands_behind_those_that_were_in_line_before():
    ready = enqueue()
    due = due_in(-1)
    tick()
    promote(USING)
    tick()
    late = enqueue()
    assert [job.pk for job in take(worker(), 5)] == [ready.pk, due.pk, late.pk]


@pytest.mark.django_db
def test_a_scheduled_job_is_not_claimed():
    due_in(-1)
    assert take(worker(), 5) == []


@pytest.mark.django_db
def test_a_cancelled_job_is_not_promoted():
    job = due_in(-1)
    Job.objects.filter(pk=job.pk).update(status=Job.Status.CANCELLED)
    assert promote(USING) == 0


@pytest.mark.django_db
def test_next_due_is_the_time_to_the_first_scheduled_job():
    assert next_due(USING) is None
    due_in(3600)
    due_in(60)
    enqueue()
    assert 50 < next_due(USING) <= 60
    due_in(-10)
    assert -20 < next_due(USING) <= -9


# -- release --------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_g6_a_released_job_is_where_it_was_and_nothing_is_counted():
    first, second = enqueue(), enqueue()
    before = fresh(first)
    (taken,) = take(worker())
    assert release([taken], USING) == 1
    row = fresh(first)
    assert (row.status, row.attempts, row.tries, row.losses) == (Job.Status.READY, 0, 0, 0)
    assert row.fence is None and row.worker_id is None and row.started_at is None
    assert row.place == before.place
    assert attempts(first) == []
    assert [job.pk for job in take(worker(), 5)] == [first.pk, second.pk]


@pytest.mark.django_db
def test_a_job_released_with_a_delay_is_scheduled():
    job = enqueue()
    assert release([take_one(worker())], USING, 60.0) == 1
    row = fresh(job)
    assert row.is_scheduled and (row.attempts, row.tries) == (0, 0)
    assert 50 < next_due(USING) <= 60


@pytest.mark.django_db
def test_g4_a_release_with_a_stale_fence_changes_nothing():
    job = enqueue()
    mine = take_one(worker())
    release([mine], USING)
    other = take_one(worker())
    assert release([mine], USING) == 0
    row = fresh(job)
    assert row.status == Job.Status.RUNNING and row.fence == other.fence and row.attempts == 1


@pytest.mark.django_db
def test_g13_a_job_that_was_to_be_cancelled_is_cancelled_when_it_is_given_back():
    job = enqueue()
    taken = take_one(worker())
    Job.objects.filter(pk=job.pk).update(cancel_requested_at=Now())
    assert release([taken], USING) == 1
    row = fresh(job)
    assert row.status == Job.Status.CANCELLED and row.finished_at is not None


@pytest.mark.django_db
def test_nothing_released_is_nothing_released():
    assert release([], USING) == 0
