"""``manage.py jobqueue schedules``: what there is, and to pause, resume or run some."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError

from django_jobqueue.lifecycle import pause_schedule, resume_schedule, run_schedule_now
from django_jobqueue.models import Schedule


def add_arguments(parser: ArgumentParser) -> None:
    for option, help in (
        ("--pause", "Let these enqueue nothing."),
        ("--resume", "Let these go on, from now."),
        ("--run-now", "Enqueue a job of these at once, also if they are paused."),
    ):
        parser.add_argument(option, nargs="+", default=[], metavar="NAME", help=help)


def answer(options: dict[str, Any], using: str) -> tuple[dict[str, Any], str]:
    named = {name for verb in ("pause", "resume", "run_now") for name in options[verb]}
    rows = {row.name: row for row in Schedule.objects.using(using)}
    if unknown := sorted(named - rows.keys()):
        raise CommandError(f"There is no schedule {', '.join(unknown)}.")
    if not named:
        return {"schedules": [schedule_data(row) for row in rows.values()]}, "\n".join(schedule_lines(rows))
    paused = [name for name in options["pause"] if pause_schedule(rows[name].pk, using)]
    resumed = [name for name in options["resume"] if resume_schedule(rows[name].pk, using)]
    ran = {name: run(rows[name], using) for name in options["run_now"]}
    told = [each(options["pause"], paused, "is paused", "was paused already")] if options["pause"] else []
    told += [each(options["resume"], resumed, "goes on", "was not paused")] if options["resume"] else []
    told += [f"{name}: job #{job}." if job else f"{name}: a layer left its job out." for name, job in ran.items()]
    return {"paused": paused, "resumed": resumed, "jobs": ran}, "\n".join(told)


def each(names: list[str], changed: list[str], done: str, was: str) -> str:
    return "\n".join(f"{name} {done if name in changed else was}." for name in names)


def run(schedule: Schedule, using: str) -> int | None:
    try:
        return run_schedule_now(schedule.pk, using)
    except (LookupError, TypeError, ValueError) as error:
        raise CommandError(f"{schedule} cannot be enqueued: {error}") from error


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
