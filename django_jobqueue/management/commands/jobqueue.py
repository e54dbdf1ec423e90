"""manage.py jobqueue: the operator's command."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue import stats
from django_jobqueue.discovery import discover
from django_jobqueue.exceptions import ArchiveFailed, UnknownTask
from django_jobqueue.lifecycle import pause, prune, resume
from django_jobqueue.lifecycle.batch import close_batch, in_any_case, open_batch
from django_jobqueue.lifecycle.changes import CANCEL, RETRY, Change, to_priority, to_queue, to_time
from django_jobqueue.lifecycle.control import Retrying
from django_jobqueue.management import schedules
from django_jobqueue.management.bulk import Bulk
from django_jobqueue.management.selection import add_arguments, duration, is_whole_batch, moment, selection
from django_jobqueue.models import Job
from django_jobqueue.registry import resolve
from django_jobqueue.worker.completer import human

from .runworker import check_tables, find_backend

Answer = tuple[dict[str, Any], str]

#: So many jobs that are not there are named.
NAMED = 10
#: Concurrency keys that are searched for jobs of unknown tasks.
KEYS_LOOKED_AT = 100
#: So much of a call is shown.
CALL = 80
#: The exit code when somebody pressed Ctrl-C: as a shell has it.
INTERRUPTED = 130
#: What a verb has done, for people and for programs, and why it leaves jobs alone.
WORDS = {
    "retry": ("put back in line", "retried", "only failed and cancelled jobs can be retried"),
    "cancel": ("cancelled", "cancelled", "finished, or asked to stop before"),
    "move": ("moved", "moved", "there already, or started"),
    "priority": ("given another priority", "changed", "they have it already, or have started"),
    "reschedule": ("given another time", "rescheduled", "they have it already, or are not ready"),
}

#: What a verb that is for all jobs of a batch does to the batch itself, before.
WITH_BATCH = {"cancel": close_batch, "retry": open_batch}


def queue_name(text: str) -> str:
    if not 1 <= len(text) <= 100:
        raise ArgumentTypeError("a queue's name has 1 to 100 characters")
    return text


def priority(text: str) -> int:
    try:
        return int(to_priority(int(text)).steps[0].values["priority"])
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no priority; write a whole number from -100 to 100") from None


class Command(BaseCommand):
    help = (
        "Look at the queue and steer it: status, retry, cancel, move, priority, reschedule, pause, resume, schedules, "
        "prune."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

        def verb(name: str, help: str) -> ArgumentParser:
            sub = verbs.add_parser(name, help=help, description=help)
            sub.add_argument("--json", action="store_true", help="Print JSON for programs.")
            sub.add_argument("--database", metavar="ALIAS", help="The database that keeps the jobs.")
            return sub

        verb("status", "Show queues, workers and numbers of jobs.")
        self.add_verbs_on_jobs(verb)
        for name, help in (
            ("pause", "Stop workers from claiming jobs of these queues, tasks or keys."),
            ("resume", "Resume paused queues, tasks or keys."),
        ):
            sub = verb(name, help)
            sub.add_argument("queues", nargs="*", type=queue_name, metavar="QUEUE", help="Queues.")
            sub.add_argument("--task", action="append", default=[], metavar="PATH", help="A task; may be repeated.")
            sub.add_argument(
                "--key",
                action="append",
                default=[],
                metavar="KEY",
                help="The key of a concurrency or rate limit, such as tenant-7; may be repeated.",
            )
        schedules.add_arguments(verb("schedules", "Show the schedules, or pause, resume or run some."))
        add = verb("prune", "Delete jobs that finished long ago.").add_argument
        add(
            "--older-than",
            type=duration,
            metavar="TIME",
            help="Finished for longer than this: 90s, 15m, 12h, 7d, 2w. Default: OPTIONS['RETENTION']. Jobs of tasks "
            "that say how long they are kept go by that alone.",
        )
        add("--dry-run", action="store_true", help="Delete nothing: report the number of jobs.")

    def add_verbs_on_jobs(self, verb: Callable[[str, str], ArgumentParser]) -> None:
        retry = verb("retry", "Put failed and cancelled jobs back in line, with a full set of attempts.")
        add_arguments(retry, RETRY.kinds)
        retry.add_argument("--all", action="store_true", help="All failed jobs.")
        retry.add_argument("--cancelled", action="store_true", help="Cancelled jobs too, not only failed ones.")
        add_arguments(verb("cancel", "Cancel jobs that have not started, and ask running ones to stop."), CANCEL.kinds)
        move = verb("move", "Move jobs that have not started to another queue.")
        move.add_argument("--to", type=queue_name, required=True, metavar="QUEUE", help="The queue.")
        add_arguments(move, to_queue("x").kinds)
        priorities = verb("priority", "Give jobs that have not started another priority.")
        priorities.add_argument("--to", type=priority, required=True, metavar="N", help="From -100 to 100.")
        add_arguments(priorities, to_priority(0).kinds)
        times = verb("reschedule", "Let jobs that have not started start at another time.")
        times.add_argument(
            "--to", type=moment, required=True, metavar="TIME", help="now, in 90s, 2h or 7d, or at 2030-12-24T18:00."
        )
        add_arguments(times, ("ready", "scheduled", "waiting"))

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        backend = find_backend(None, options["database"])
        self.using, self.backend = backend.config.database, backend
        check_tables(self.using)
        discover(log=False)
        self.missing: list[int] = []
        self.exit_code = 0
        answer: Callable[..., Answer] = getattr(self, f"do_{verb}")
        data, text = answer(options)
        self.stdout.write(json.dumps(data, indent=2, default=str) if options["json"] else text)
        if self.missing:
            raise CommandError(not_there(self.missing))
        if self.exit_code:
            raise SystemExit(self.exit_code)

    # -- the verbs -------------------------------------------------------------------------------

    def do_status(self, options: dict[str, Any]) -> Answer:
        overview, unknown = stats.overview(self.using), unknown_tasks(self.using)
        lines = [f"Waiting  jobs of {path}, under a concurrency key: no such task is known here" for path in unknown]
        return asdict(overview) | {"unknown_tasks": unknown}, "\n".join([*status_lines(overview), *lines])

    def do_retry(self, options: dict[str, Any]) -> Answer:
        if not (options["ids"] or options["status"]):
            # of a batch also those that were cancelled because another one had failed
            both = options["cancelled"] or is_whole_batch(options)
            options["kinds"] = ["failed", "cancelled"] if both else ["failed"]
        retrying = Retrying()
        data, text = self.do_to_jobs("retry", retrying.change, options, retrying)
        return data | {"held": retrying.held}, text

    def do_cancel(self, options: dict[str, Any]) -> Answer:
        if options["batch"]:  # or what waits might start when what it waits for is cancelled
            options["kinds"] = sorted(CANCEL.kinds, key="waiting".__ne__)
        return self.do_to_jobs("cancel", CANCEL, options)

    def do_move(self, options: dict[str, Any]) -> Answer:
        return self.do_to_jobs("move", to_queue(options["to"]), options)

    def do_priority(self, options: dict[str, Any]) -> Answer:
        return self.do_to_jobs("priority", to_priority(options["to"]), options)

    def do_reschedule(self, options: dict[str, Any]) -> Answer:
        to = options["to"]
        try:
            change = to_time(self.from_now(to) if isinstance(to, timedelta) else to)
        except (ValueError, OverflowError) as error:
            raise CommandError(f"--to: {error}") from None
        return self.do_to_jobs("reschedule", change, options)

    def do_to_jobs(
        self, verb: str, change: Change, options: dict[str, Any], retrying: Retrying | None = None
    ) -> Answer:
        chosen = selection(options, change, self.using)
        chosen.kinds = chosen.kinds or options.get("kinds")
        self.missing = chosen.missing
        if verb == "cancel" and is_whole_batch(options) and isinstance(chosen.jobs, QuerySet):
            chosen.jobs = chosen.jobs.exclude(pk__in=in_any_case(options["batch"], self.using))
        bulk = Bulk(change, chosen, self.using, options["limit"])
        if options["dry_run"]:
            return would_be(verb, bulk)
        if verb in WITH_BATCH and is_whole_batch(options):
            WITH_BATCH[verb](options["batch"], self.using)
        bulk.run(quiet=options["json"])
        data, text = was(verb, bulk)
        held = retrying.held if retrying else 0
        left = chosen.named - bulk.number - held
        text += f" {jobs(held)} left alone: another job has the unique key." if held else ""
        if bulk.interrupted:
            self.exit_code, data["interrupted"] = INTERRUPTED, True
            text = f"Interrupted. Before that: {text} The others are as they were."
        elif left > 0 and options["limit"] is None:
            text += f" {jobs(left)} left alone: {WORDS[verb][2]}."
        return data, text

    def from_now(self, delay: timedelta) -> Any:
        """By the database's clock, which any job can tell; without a job there is nothing to do anyway."""
        rows = Job.objects.using(self.using).order_by("-id").annotate(now=Now())
        return (rows.values_list("now", flat=True).first() or timezone.now()) + delay

    def do_pause(self, options: dict[str, Any]) -> Answer:
        known = {queue.name for queue in stats.queues(self.using)}
        data, text = self.switch(pause, options, "paused", "is paused", "was paused already")
        unknown = [
            f"No worker has met {name}, and no job is in line there." for name in data["paused"] if name not in known
        ]
        return data, "\n".join([text, *unknown])

    def do_resume(self, options: dict[str, Any]) -> Answer:
        return self.switch(resume, options, "resumed", "is open again", "was not paused")

    def switch(self, verb: Callable[..., bool], options: dict[str, Any], key: str, done: str, was: str) -> Answer:
        named = [
            *(("queue_name", name) for name in options["queues"]),
            *(("task", path) for path in options["task"]),
            *(("key", name) for name in options["key"]),
        ]
        if not named:
            raise CommandError("Say what: QUEUE …, --task PATH or --key KEY.")
        try:
            changed = [pair for pair in named if verb(using=self.using, **dict([pair]))]
        except ValueError as error:
            raise CommandError(str(error)) from error
        lines = [f"{name} {done if (what, name) in changed else was}." for what, name in named]
        data: dict[str, Any] = {key: [name for what, name in changed if what == "queue_name"]}
        for what in ("task", "key"):
            if options[what]:
                data[f"{what}s"] = [name for kind, name in changed if kind == what]
        return data, "\n".join(lines)

    def do_schedules(self, options: dict[str, Any]) -> Answer:
        return schedules.answer(options, self.using)

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


def unknown_tasks(using: str) -> list[str]:
    """The tasks that this process does not know of the jobs that are first under their concurrency keys: they wait
    until a worker knows them.
    """
    waiting = Job.objects.using(using).waiting_for_slots().order_by("-priority", "id")
    paths = waiting.values_list("task_path", flat=True)
    firsts = {paths.filter(concurrency_key=key.name).first() for key in stats.keys(using, limit=KEYS_LOOKED_AT)}
    return sorted(path for path in firsts if path is not None and not is_known(path))


def is_known(path: str) -> bool:
    try:
        resolve(path)
    except UnknownTask:
        return False
    return True


def jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"


def not_there(ids: list[int]) -> str:
    names = ", ".join(map(str, ids[:NAMED])) + (" …" if len(ids) > NAMED else "")
    return f"There is no job {names}." if len(ids) == 1 else f"There are no jobs {names}."


def was(verb: str, bulk: Bulk) -> Answer:
    done, key, _ = WORDS[verb]
    if verb != "cancel":
        return {key: bulk.number}, f"{jobs(bulk.number)} {done}."
    before, requested, back = bulk.done
    data = {"cancelled": before + back, "requested": requested}
    return data, f"{jobs(before + back)} cancelled, {requested} running asked to stop."


def would_be(verb: str, bulk: Bulk) -> Answer:
    done, key, _ = WORDS[verb]
    number, first = bulk.count(), bulk.first()
    lines = [f"{jobs(number)} would be {done}{' or asked to stop' if verb == 'cancel' else ''}. Nothing was changed."]
    lines += [f"  #{job.pk}  {job.status}  {job.queue_name}  {job.call[:CALL]}" for job in first]
    lines += ["  …"] * (number > len(first))
    return {"dry_run": True, key: number, "first": [job.pk for job in first]}, "\n".join(lines)


def status_lines(overview: stats.Overview) -> Iterator[str]:
    yield "Jobs     " + ", ".join(f"{number} {word}" for word, number in overview.totals.items() if number is not None)
    workers = overview.workers
    alive = f"{workers.alive} alive with {workers.slots} slots"
    yield f"Workers  {alive}, {workers.silent} silent, {workers.lost} lost today"
    for kind in ("task", "key"):
        if names := [pause.name for pause in overview.pauses if pause.kind == kind]:
            yield f"Paused   {kind} {', '.join(names)}"
    if overview.keys:
        full = (f"{key.name} ({key.slots} in line or running, {key.waiting} waiting)" for key in overview.keys)
        more = " and perhaps others" * (len(overview.keys) == stats.KEYS)
        yield f"Keys     {', '.join(full)}{more}"
    if overview.queues:
        width = max(5, *(len(queue.name) for queue in overview.queues))
        yield f"{'Queue':<{width}}  {'ready':>8}  {'scheduled':>9}  {'running':>8}  oldest"
    for queue in overview.queues:
        oldest = "" if queue.oldest_seconds is None else human(queue.oldest_seconds)
        note = "  (paused)" if queue.paused else ""
        numbers = f"{queue.ready!s:>8}  {queue.scheduled!s:>9}  {queue.running!s:>8}"
        yield f"{queue.name:<{width}}  {numbers}  {oldest:<8}{note}".rstrip()
