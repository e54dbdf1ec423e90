"""Tasks with unique keys, and the processes that enqueue them all at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from django.db import DatabaseError, transaction

from django_jobqueue import enqueue_many, task
from django_jobqueue.dialects import get_dialect
from django_jobqueue.models import Job

from .tasks import note

KEYS = 5


@task(takes_context=True, unique="key-{key}")
def alone(context, key, caller):
    """Note whatever it is not alone with."""
    note(context, "start")
    mine = Job.objects.unfinished().filter(task_path=context.job.task_path, args__0=key)
    if mine.count() != 1:
        note(context, "not-alone")
    time.sleep(random.uniform(0, 0.01))
    if mine.count() != 1:
        note(context, "not-alone")
    note(context, "end")


class Undo(Exception):
    pass


def enqueue_all(calls: int, caller: int, ids: str) -> None:
    """Call by call, some in transactions, some of which roll back, some in bulk; the ids go to a file."""
    got: list[str] = []
    for number in range(calls):
        key = random.randrange(KEYS)
        if number % 7 == 3:
            with suppress(Undo):
                again_after_collision(enqueue_and_undo, key, caller)
        elif number % 11 == 5:
            got += again_after_collision(enqueue_some, random.sample(range(KEYS), 3), caller)
        elif number % 5 == 2:
            got += again_after_collision(enqueue_twice, key, caller)
        else:
            got.append(alone.enqueue(key, caller).id)
    Path(ids).write_text("\n".join(got))


def enqueue_some(keys: list[int], caller: int) -> list[str]:
    return [made.id for made in enqueue_many([alone.s(key, caller) for key in keys])]


def enqueue_twice(key: int, caller: int) -> list[str]:
    with transaction.atomic():
        made = [alone.enqueue(key, caller).id for _ in range(2)]
    return made


def enqueue_and_undo(key: int, caller: int) -> list[str]:
    with transaction.atomic():
        alone.enqueue(key, caller)
        time.sleep(random.uniform(0, 0.003))
        raise Undo


def again_after_collision(enqueue: Callable[..., list[str]], *args: object) -> list[str]:
    """A deadlock in the caller's own transaction is the caller's, on MariaDB and MySQL."""
    while True:
        try:
            return enqueue(*args)
        except DatabaseError as error:
            if not get_dialect("default").is_collision(error):
                raise
