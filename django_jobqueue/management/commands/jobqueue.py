"""manage.py jobqueue: the operator's command."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import BigIntegerField, QuerySet

from django_jobqueue import stats
from django_jobqueue.exceptions import ArchiveFailed
from django_jobqueue.lifecycle import (
    cancel,
    pause,
    pause_schedule,
    prune,
    resume,
    resume_schedule,
    retry_all,
    run_schedule_now,
)
from django_jobqueue.models import Job, Schedule
from django_jobqueue.worker.completer import human

from .runworker import find_backend

Answer = tuple[dict[str, Any], str]

#: So many jobs that are not there are named.
NAMED = 10
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip().lower())
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no duration; write seconds, or a number with s, m, h, d or w: 7d")
    return float(match[1]) * UNITS[match[2] or "s"]


def queue_name(text: str) -> str:
    if not 1 <= len(text) <= 100:
        raise ArgumentTypeError("a queue's name has 1 to 100 characters")
    return text


class Command(BaseCommand):
    help = "Look at the queue and steer it: status, retry, cancel, pause, resume, schedules, prune."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

        def verb(name: str, help: str) -> ArgumentParser:
            sub = verbs.add_parser(name, help=help, description=help)
            sub.add_argument("--json", action="store_true", help="Print JSON for programs.")
            sub.add_argument("--database", metavar="ALIAS", help="The database that keeps the jobs.")
            return sub

        verb("status", "Show queues, workers and numbers of jobs.")
        retry_verb = verb("retry", "Put failed and cancelled jobs back in line, with a full set of attempts.")
        cancel_verb = verb("cancel", "Cancel jobs that have not started, and ask running ones to stop.")
        for sub in (retry_verb, cancel_verb):
            add = sub.add_argument
            add("ids", nargs="*", type=int, metavar="ID", help="The jobs' numbers.")
            add("--task", metavar="PATH", help="All jobs of this task; together with --queue: of both.")
            add("--queue", metavar="NAME", help="All jobs of this queue.")
        retry_verb.add_argument("--all", action="store_true", help="All failed jobs.")
        retry_verb.add_argument("--cancelled", action="store_true", help="Cancelled jobs too, not only failed ones.")
        for name, help in (("pause", "Let no worker claim from the queues."), ("resume", "Open paused queues again.")):
            verb(name, help).add_argument("queues", nargs="+", type=queue_name, metavar="QUEUE")
        add = verb("schedules", "Show the schedules, or pause, resume or run some.").add_argument
        for option, help in (
            ("--pause", "Let these enqueue nothing."),
            ("--resume", "Let these go on, from now."),
            ("--run-now", "Enqueue a job of these at once, also if they are paused."),
        ):
            add(option, nargs="+", default=[], metavar="NAME", help=help)
        add = verb("prune", "Delete jobs that finished long ago.").add_argument
        add(
            "--older-than",
            type=duration,
            metavar="TIME",
            help="Finished for longer than this: 90s, 15m, 12h, 7d, 2w. Default: OPTIONS['RETENTION']. Jobs of tasks "
            "that say how long they are kept go by that alone.",
        )
        add("--dry-run", action="store_true", help="Only say how many it would be.")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        backend = find_backend(None, options["database"])
        self.using, self.backend = backend.config.database, backend
        self.missing: list[int] = []
        answer: Callable[..., Answer] = getattr(self, f"do_{verb}")
        data, text = answer(options)
        self.stdout.write(json.dumps(data, indent=2, default=str) if options["json"] else text)
        if self.missing:
            raise CommandError(not_there(self.missing))

    # -- the verbs -------------------------------------------------------------------------------

    def do_status(self, options: dict[str, Any]) -> Answer:
        overview = stats.overview(self.using)
        return asdict(overview), "\n".join(status_lines(overview))

    def do_retry(self, options: dict[str, Any]) -> Answer:
        statuses = [Job.Status.FAILED]
        if options["ids"] or options["cancelled"]:
            statuses.append(Job.Status.CANCELLED)
        ids = self.chosen(options, Job.objects.using(self.using).filter(status__in=statuses), everything=options["all"])
        done = retry_all(ids, self.using)
        held = f" {jobs(done.held)} left alone: another job has the unique key." if done.held else ""
        left = self.left_alone(options, done.retried + done.held, "only failed and cancelled jobs can be retried")
        return asdict(done), f"{jobs(done.retried)} put back in line.{held}{left}"

    def do_cancel(self, options: dict[str, Any]) -> Answer:
        ids = self.chosen(options, Job.objects.using(self.using).unfinished())
        done = cancel(ids, self.using)
        text = f"{jobs(done.cancelled)} cancelled, {done.requested} running asked to stop."
        left = self.left_alone(options, done.cancelled + done.requested, "finished, or asked to stop before")
        return asdict(done), text + left

    def do_pause(self, options: dict[str, Any]) -> Answer:
        known = {queue.name for queue in stats.queues(self.using)}
        changed = [name for name in options["queues"] if pause(name, self.using)]
        text = each(options["queues"], changed, "is paused", "was paused already")
        unknown = [f"No worker has met {name}, and no job is in line there." for name in changed if name not in known]
        return {"paused": changed}, "\n".join([text, *unknown])

    def do_resume(self, options: dict[str, Any]) -> Answer:
        changed = [name for name in options["queues"] if resume(name, self.using)]
        return {"resumed": changed}, each(options["queues"], changed, "is open again", "was not paused")

    def do_schedules(self, options: dict[str, Any]) -> Answer:
        named = {name for verb in ("pause", "resume", "run_now") for name in options[verb]}
        rows = {row.name: row for row in Schedule.objects.using(self.using)}
        if unknown := sorted(named - rows.keys()):
            raise CommandError(f"There is no schedule {', '.join(unknown)}.")
        if not named:
            return {"schedules": [schedule_data(row) for row in rows.values()]}, "\n".join(schedule_lines(rows))
        paused = [name for name in options["pause"] if pause_schedule(rows[name].pk, self.using)]
        resumed = [name for name in options["resume"] if resume_schedule(rows[name].pk, self.using)]
        ran = {name: self.run_schedule(rows[name]) for name in options["run_now"]}
        told = [each(options["pause"], paused, "is paused", "was paused already")] if options["pause"] else []
        told += [each(options["resume"], resumed, "goes on", "was not paused")] if options["resume"] else []
        told += [f"{name}: job #{job}." if job else f"{name}: a layer left its job out." for name, job in ran.items()]
        return {"paused": paused, "resumed": resumed, "jobs": ran}, "\n".join(told)

    def run_schedule(self, schedule: Schedule) -> int | None:
        try:
            return run_schedule_now(schedule.pk, self.using)
        except (LookupError, TypeError, ValueError) as error:
            raise CommandError(f"{schedule} cannot be enqueued: {error}") from error

    def do_prune(self, options: dict[str, Any]) -> Answer:
        said, dry = options["older_than"], options["dry_run"]
        age = self.backend.config.retentions if said is None else said
        try:
            number = prune(age, self.using, archive=self.backend.archive, dry_run=dry)
        except ArchiveFailed as error:
            raise CommandError(f"{error} They are not deleted.") from error
        done = f"{jobs(number)} {'would be deleted' if dry else 'deleted'}"
        why = "past their retention" if said is None else f"that finished more than {human(said)} ago"
        for_ever = said is None and None in self.backend.config.retentions.values()
        hint = " OPTIONS['RETENTION'] keeps jobs for ever; to delete them, say --older-than TIME." if for_ever else ""
        return {"would_delete" if dry else "deleted": number}, f"{done} {why}.{hint}"

    # -- which jobs ------------------------------------------------------------------------------

    def chosen(self, options: dict[str, Any], rows: QuerySet[Job], *, everything: bool = False) -> Iterator[int]:
        """The numbers of the jobs that the options name. Raise ``CommandError`` if they name none."""
        conditions = [f"--{name}" for name in ("task", "queue", "all") if options.get(name)]
        if options["ids"] and conditions:
            raise CommandError(f"Say which jobs either by their numbers or by {' and '.join(conditions)}.")
        if options["ids"]:
            possible = {number for number in options["ids"] if number <= BigIntegerField.MAX_BIGINT}
            there = Job.objects.using(self.using).only("pk").in_bulk(possible)
            self.missing = sorted(set(options["ids"]) - there.keys())
            return iter(there)
        if not (options["task"] or options["queue"] or everything):
            raise CommandError("Say which jobs: by their numbers, --task PATH, --queue NAME; for retry also --all.")
        if options["task"]:
            rows = rows.filter(task_path=options["task"])
        if options["queue"]:
            rows = rows.filter(queue_name=options["queue"])
        return rows.order_by("pk").values_list("pk", flat=True).iterator(chunk_size=1000)

    def left_alone(self, options: dict[str, Any], done: int, reason: str) -> str:
        left = len(set(options["ids"])) - len(self.missing) - done
        return f" {jobs(left)} left alone: {reason}." if left > 0 else ""


def jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"


def not_there(ids: list[int]) -> str:
    names = ", ".join(map(str, ids[:NAMED])) + (" …" if len(ids) > NAMED else "")
    return f"There is no job {names}." if len(ids) == 1 else f"There are no jobs {names}."


def each(names: list[str], changed: list[str], done: str, was: str) -> str:
    return "\n".join(f"{name} {done if name in changed else was}." for name in names)


def status_lines(overview: stats.Overview) -> Iterator[str]:
    yield "Jobs     " + ", ".join(f"{number} {word}" for word, number in overview.totals.items() if number is not None)
    workers = overview.workers
    alive = f"{workers.alive} alive with {workers.slots} slots"
    yield f"Workers  {alive}, {workers.silent} silent, {workers.lost} lost today"
    if overview.queues:
        width = max(5, *(len(queue.name) for queue in overview.queues))
        yield f"{'Queue':<{width}}  {'ready':>8}  {'scheduled':>9}  {'running':>8}  oldest"
    for queue in overview.queues:
        oldest = "" if queue.oldest_seconds is None else human(queue.oldest_seconds)
        note = "  (paused)" if queue.paused else ""
        numbers = f"{queue.ready!s:>8}  {queue.scheduled!s:>9}  {queue.running!s:>8}"
        yield f"{queue.name:<{width}}  {numbers}  {oldest:<8}{note}".rstrip()


def schedule_data(row: Schedule) -> dict[str, Any]:
    return {
        "name": row.name,
        "task": row.task_path,
        "args": row.args,
        "kwargs": row.kwargs,
        "when": row.spec,
        "time_zone": row.time_zone,
        "description": row.description,
        "from_code": row.is_from_code,
        "status": status_of(row),
        "next_run_at": row.next_run_at and row.next_run_at.isoformat(),
        "last_run_at": row.last_run_at and row.last_run_at.isoformat(),
        "last_job": row.last_job_id,
        "skipped": row.skipped,
        "error": row.error,
    }


def status_of(row: Schedule) -> str:
    if row.vanished_at:
        return "not in the code"
    return "paused" if row.is_paused else "failing" if row.error else "active"


def schedule_lines(rows: dict[str, Schedule]) -> Iterator[str]:
    if not rows:
        yield "There are no schedules."
        return
    width = max(8, *map(len, rows))
    yield f"{'Schedule':<{width}}  {'next':<20}  {'last':<20}  {'last job':>8}  status"
    for name, row in rows.items():
        times = [f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-" for moment in (row.next_run_at, row.last_run_at)]
        yield f"{name:<{width}}  {times[0]:<20}  {times[1]:<20}  {row.last_job_id or '-':>8}  {status_of(row)}"
        yield f"{'':<{width}}  {row.description}"
