"""Selection: which jobs a verb of the command is meant for, by their numbers or by conditions."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db.models import BigIntegerField, Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils.dateparse import parse_datetime

from django_jobqueue.keys import shortened
from django_jobqueue.lifecycle.changes import Change
from django_jobqueue.lifecycle.portions import ORDERS, Jobs
from django_jobqueue.models import Attempt, Batch, Job

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: What names jobs, beside their numbers.
CONDITIONS = ("task", "queue", "key", "batch", "status", "older_than", "error", "all")


def duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip().lower())
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no duration; write seconds, or a number with s, m, h, d or w: 7d")
    return float(match[1]) * UNITS[match[2] or "s"]


def moment(text: str) -> datetime | timedelta | None:
    """``now`` is None; ``2h`` is in two hours; else an ISO time, in the project's time zone unless it names another."""
    if text.strip().lower() == "now":
        return None
    with suppress(ArgumentTypeError, OverflowError):
        return timedelta(seconds=duration(text))
    try:
        found = parse_datetime(text.strip())
    except ValueError:
        found = None
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no time; write now, 90s, 2h, 7d, or 2030-12-24T18:00")
    return found


def at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def add_arguments(parser: ArgumentParser, kinds: Sequence[str]) -> None:
    """What all verbs on jobs take. ``kinds`` are those that the verb does something to."""
    add = parser.add_argument
    add("ids", nargs="*", type=int, metavar="ID", help="The jobs' numbers.")
    add("--task", metavar="PATH", help="Jobs of this task.")
    add("--queue", metavar="NAME", help="Jobs of this queue.")
    add("--key", metavar="KEY", help="Jobs of this concurrency key, such as tenant-7.")
    add("--batch", type=at_least_one, metavar="N", help="Jobs of the batch with this number.")
    add(
        "--status",
        action="append",
        choices=list(ORDERS),
        metavar="WORD",
        help=f"Jobs that are {', '.join(kinds[:-1])} or {kinds[-1]}; more than once for more than one.",
    )
    add("--older-than", type=duration, metavar="TIME", help="Jobs enqueued longer ago than 90s, 15m, 12h, 7d, 2w.")
    add(
        "--error",
        metavar="TEXT",
        help="Jobs whose latest attempt ended in this exception, or with this in its message.",
    )
    add("--limit", type=at_least_one, metavar="N", help="At most this many jobs.")
    add("--dry-run", action="store_true", help="Change nothing: report the number of jobs, and show the first ones.")


@dataclass(slots=True)
class Selection:
    """Several conditions together mean jobs that meet all of them."""

    jobs: Jobs
    #: The kinds of jobs to look through; None: those that the verb does something to.
    kinds: Sequence[str] | None = None
    #: How many jobs were named by their numbers, and the numbers that no job has.
    named: int = 0
    missing: list[int] = field(default_factory=list)


def selection(options: dict[str, Any], change: Change, using: str) -> Selection:
    """The jobs that the options name. Raise ``CommandError`` if they name none, or in two ways."""
    conditions = [f"--{name.replace('_', '-')}" for name in CONDITIONS if options.get(name)]
    if options["ids"]:
        if conditions:
            raise CommandError(f"Say which jobs either by their numbers or by {' and '.join(conditions)}.")
        return _by_number(options["ids"], using)
    if not conditions:
        raise CommandError(
            "Say which jobs: by their numbers, --task PATH, --queue NAME, --key KEY, --batch N, --status WORD, "
            "--older-than TIME, --error TEXT; for retry also --all."
        )
    if wrong := [word for word in options["status"] or () if word not in change.kinds]:
        raise CommandError(f"It cannot be done to jobs that are {' or '.join(wrong)}, only: {', '.join(change.kinds)}.")
    if options["batch"] and not Batch.objects.using(using).filter(pk=options["batch"]).exists():
        raise CommandError(f"There is no batch #{options['batch']}.")
    return Selection(Job.objects.using(using).filter(condition(options, using)), options["status"])


def is_whole_batch(options: dict[str, Any]) -> bool:
    """All jobs of a batch, whatever they are?"""
    others = [name for name in CONDITIONS if options.get(name) and name != "batch"]
    return bool(options["batch"]) and not others and options["limit"] is None


def _by_number(ids: Sequence[int], using: str) -> Selection:
    wanted = set(ids)
    possible = {number for number in wanted if number <= BigIntegerField.MAX_BIGINT}
    there = Job.objects.using(using).only("pk").in_bulk(possible)
    return Selection(list(there), named=len(there), missing=sorted(wanted - there.keys()))


def condition(options: dict[str, Any], using: str) -> Q:
    found = Q()
    if options["task"]:
        found &= Q(task_path=options["task"])
    if options["queue"]:
        found &= Q(queue_name=options["queue"])
    if options["key"]:
        found &= Q(concurrency_key=shortened(options["key"]))
    if options["batch"]:
        found &= Q(batch=options["batch"])
    if options["older_than"] is not None:
        found &= Q(enqueued_at__lt=Now() - timedelta(seconds=options["older_than"]))
    if options["error"]:
        found &= Q(Exists(ended_in(options["error"], using)))
    return found


def ended_in(error: str, using: str) -> Any:
    """The job's latest attempt, if it ended in that exception or tells of it."""
    latest = Attempt.objects.using(using).filter(job_id=OuterRef("pk"), number=OuterRef("attempts"))
    path = "exception_class_path"
    named = Q(**{path: error}) | Q(**{f"{path}__endswith": f".{error}"}) | Q(message__contains=error)
    return latest.filter(named)
