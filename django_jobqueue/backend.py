"""The door for django.tasks: ``TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend"}}``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.module_loading import import_string

from .arguments import call_as_json, normalise_call
from .compat import (
    AnyResult,
    AnyTask,
    BaseTaskBackend,
    InvalidTask,
    TaskResultDoesNotExist,
)
from .conf import Options, problems_of
from .gathering import gather
from .keys import slots_of
from .middleware.chain import enqueue_layers, enqueue_through
from .moments import check_moment
from .options import checked_names
from .registry import IS_OF_THE_BACKPORT, copy_of, declared_function, effective, is_of_the_backport, resolve
from .signals import ENQUEUED
from .signatures import check_arguments, fitting
from .task import Call, JobTask, Step

if TYPE_CHECKING:
    from .models import Job

MAX_ID = 2**63 - 1
#: Tasks that a backend remembers as checked; ``using()`` makes new ones without end.
KNOWN_TASKS = 500


class JobQueueBackend(BaseTaskBackend):
    """Keeps jobs in the database. An enqueue is an INSERT in the caller's transaction.

    Django makes one instance for each thread and context, so instances keep nothing but what they could find again.
    """

    #: By this ``conf`` knows the class, and what is derived from it.
    keeps_jobs_in_database = True
    task_class = JobTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @cached_property
    def config(self) -> Options:
        """The OPTIONS, checked. Raise ``ImproperlyConfigured`` naming the key that cannot be."""
        try:
            return Options.read(self.options)
        except ValueError as error:
            raise ImproperlyConfigured(f"TASKS[{self.alias!r}]: {error}") from None

    @property
    def database(self) -> str:
        """The alias of the database where the jobs are."""
        return self.config.database

    @cached_property
    def archive(self) -> Callable[[list[Job]], object] | None:
        """``OPTIONS["ARCHIVE"]``: what is called with finished jobs before they are deleted. Raise
        ``ImproperlyConfigured`` if its path does not import, or is no function.
        """
        path = self.config.archive
        try:
            found = path if path is None else import_string(path)
        except ImportError as error:
            raise ImproperlyConfigured(f"TASKS[{self.alias!r}]: OPTIONS['ARCHIVE']: {error}.") from error
        if found is not None and not callable(found):
            raise ImproperlyConfigured(f"TASKS[{self.alias!r}]: OPTIONS['ARCHIVE'] is no function: {path!r}.")
        return found

    # -- enqueue ---------------------------------------------------------------------------------

    def validate_task(self, task: AnyTask) -> None:
        """Raise ``InvalidTask`` if the task cannot be enqueued here."""
        if isinstance(task.run_after, timedelta):
            task = copy_of(task, run_after=moment_after(task.run_after, timezone.now()))  # all that Django knows
        if task.run_after is not None and not isinstance(task.run_after, datetime):
            raise InvalidTask(f"run_after must be a datetime or a timedelta, not {task.run_after!r}.")
        if task.run_after is not None:
            check_run_after(task.run_after)
        if isinstance(task.priority, bool) or not isinstance(task.priority, int):
            raise InvalidTask(f"priority must be a whole number between -100 and 100, not {task.priority!r}.")
        if not isinstance(task.queue_name, str) or not 1 <= len(task.queue_name) <= 100:
            raise InvalidTask(f"queue_name must be a string of 1 to 100 characters, not {task.queue_name!r}.")
        if (function := declared_function(task)) is not task.func:
            task = copy_of(task, func=function)
        super().validate_task(task)

    def enqueue(self, task: AnyTask, args: Sequence[Any], kwargs: dict[str, Any]) -> AnyResult:  # type: ignore[override]
        """Insert one job. Raise ``TypeError`` or ``ValueError`` for arguments that JSON or the database cannot hold,
        ``InvalidTask`` for a task that no worker could find; then nothing has been inserted.
        """
        return self.enqueue_many([Call(task, tuple(args), kwargs)])[0]

    def enqueue_many(self, calls: Iterable[Call]) -> Sequence[AnyResult]:
        """Insert jobs for all calls in one transaction, or none; their results in the calls' order."""
        calls = list(calls)
        jobs, kinds = self._jobs(calls)
        if any(own["waiting_for"] for own in kinds):
            self._lifecycle.enqueue_behind(jobs, waits_of(calls), self._inserting(kinds), self.database)
        else:
            self._inserting(kinds)(jobs)
        return self._results_of(calls, jobs)

    def enqueue_steps(self, steps: Sequence[Step], name: str = "") -> tuple[int, Sequence[AnyResult]]:
        """Insert the jobs of a chain or group in one transaction; the number of their batch, and their results."""
        calls = [step.call for step in steps]
        for step in steps if not enqueue_layers() else ():  # which may add arguments
            check_arguments(step.call.task, step.call.args, step.call.kwargs, handed=int(step.takes_result))
        check_waits(step.call.task for step in steps if step.after)
        jobs, kinds = self._jobs(calls, checked=True)
        insert = self._inserting(kinds)
        batch = self._lifecycle.enqueue_batch(jobs, steps, waits_of(calls), name, insert, self.database)
        written = [place for place, call in enumerate(calls) if call.task.func is not gather.func]
        return batch.pk, self._results_of([calls[place] for place in written], [jobs[place] for place in written])

    def enqueue_beside(self, calls: Sequence[Call], beside: int) -> Sequence[AnyResult]:
        """Insert jobs for which those wait too that wait for the job with the number ``beside``."""
        jobs, kinds = self._jobs(calls)
        self._lifecycle.enqueue_beside(jobs, beside, self._inserting(kinds), self.database)
        return self._results_of(calls, jobs)

    def _results_of(self, calls: Sequence[Call], jobs: Sequence[Job]) -> Sequence[AnyResult]:
        results: Sequence[AnyResult] = self._results.Results(self._enqueued, [call.task for call in calls], jobs)
        if ENQUEUED.is_heard():
            for job, result in zip(jobs, results, strict=True):
                if result.id and not job.was_there:
                    ENQUEUED.send(type(self), result)
        return results

    def _jobs(self, calls: Sequence[Call], checked: bool = False) -> tuple[list[Job], Collection[Mapping[str, Any]]]:
        """The unsaved jobs for the calls; everything that can be wrong with them is found here. And what the jobs of
        each task have in common: what few tasks want is asked of those, for most jobs should not pay for it.
        ``checked``: the arguments are known to fit the tasks' functions.
        """
        Job, now = self._models.Job, timezone.now()
        checked = checked or bool(enqueue_layers())  # a layer may add arguments: they are checked behind it
        kinds: dict[int, tuple[dict[str, Any], set[Any], Callable[..., Any]]] = {}
        jobs = []
        for call in calls:
            task, args, kwargs = call.task, call.args, call.kwargs
            if (kind := kinds.get(id(task))) is None:
                kinds[id(task)] = kind = self._columns(task, now), fitting(task), declared_function(task)
            own, fits, function = kind
            if not checked and ((len(args), *kwargs) if kwargs else len(args)) not in fits:
                check_arguments(task, args, kwargs)
            texts = call_as_json(function, args, kwargs, takes_context=task.takes_context)
            jobs.append(Job.of(own, args=texts[0], kwargs=texts[1]))
        return jobs, [own for own, _, _ in kinds.values()]

    def _columns(self, task: AnyTask, now: datetime) -> dict[str, Any]:
        """What all jobs of this task have in common."""
        if (known := self._known.get(id(task))) is not None and known[0] is task:
            return known[1] | {"enqueued_at": now}
        columns = self._checked_columns(task, now)
        if task.run_after is None:
            if len(self._known) >= KNOWN_TASKS:
                self._known.clear()
            self._known[id(task)] = task, columns
        return columns

    @cached_property
    def _known(self) -> dict[int, tuple[AnyTask, dict[str, Any]]]:
        """The columns of tasks that have been checked, by identity: to find that nothing is wrong takes its time."""
        return {}

    def _checked_columns(self, task: AnyTask, now: datetime) -> dict[str, Any]:
        self.validate_task(task)
        check_findable(task)
        run_after = moment_after(task.run_after, now) if isinstance(task.run_after, timedelta) else task.run_after
        columns: dict[str, Any] = self._models.job.defaults() | {
            "task_path": task.module_path,
            "queue_name": str.__str__(task.queue_name),  # an enum's member would be written by its name
            "priority": int(task.priority),
            "backend": self.alias,
            "run_after": run_after,
            "enqueued_at": now,
            "max_attempts": effective(task, "max_attempts", self.config.max_attempts),
        }
        if options := getattr(task, "options", None):
            # again: its layers can be imported by now
            checked_names(options, getattr(task, "middleware", ()), f"{task.module_path}: ")
        if given := getattr(task, "given", None):
            columns["options"] = dict(given)
        if getattr(task, "unique", None):
            columns["unique_task"] = task
        if slots_of(task).most is not None and task.func is not gather.func:
            columns["limited_task"] = task
        if run_after is not None:
            columns["place"] = None  # the database's clock decides when it is due, not this process's
        if after := getattr(task, "after", ()):
            check_numbers(task)
            columns |= {"place": None, "status": self._models.Job.Status.WAITING, "waiting_for": len(after)}
        return columns

    def _inserting(self, kinds: Collection[Mapping[str, Any]]) -> Callable[[list[Job]], None]:
        return partial(self._insert, keyed=any("unique_task" in own or "limited_task" in own for own in kinds))

    def _insert(self, jobs: list[Job], keyed: bool) -> None:
        if not (layers := enqueue_layers()):
            self._lifecycle.enqueue(jobs, self.database, may_have_keys=keyed)
            return
        for job in jobs:
            job.decode()
        # in one transaction: a layer that raises after the insert undoes it
        self._lifecycle.together(jobs, self.database, lambda: enqueue_through(layers, self._save)(list(jobs)))

    def _save(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:  # a layer may have put anything in
            task = resolve(job.task_path)
            job.args, job.kwargs = normalise_call(declared_function(task), job.args, job.kwargs)
            if not job.waiting_for:  # others may be handed results
                check_arguments(task, job.args, job.kwargs)
        saved: list[Job] = self._lifecycle.enqueue(jobs, self.database)
        return saved

    def _enqueued(self, task: AnyTask, job: Job) -> AnyResult:
        if job.pk is None:  # a layer has left it out
            job.status = job.Status.CANCELLED
        result: AnyResult = self._results.PendingResult.at(
            self._results.Moment(job, partial(self._task_of, task), lambda: job.past_attempts)
        )
        return result

    def _task_of(self, task: AnyTask, job: Job) -> AnyTask:
        """The task of a job that was enqueued for ``task``."""
        if job.was_there:
            found: AnyTask = self._results.task_of(job, self)
            return found
        return copy_of(task, run_after=job.run_after) if isinstance(task.run_after, timedelta) else task

    # -- results ---------------------------------------------------------------------------------

    def get_result(self, result_id: str) -> AnyResult:
        """The result with this id. Raise ``TaskResultDoesNotExist`` if there is none, or it cannot be an id."""
        Job, number = self._models.Job, _number(result_id)
        with self._missing(result_id):
            job = Job.objects.using(self.database).annotate(now=Now()).get(pk=number)
        if job.result_until is not None and job.result_until <= job.now:
            job.result = None  # about to be deleted
        self._lifecycle.attach_past_attempts([job], self.database)
        result: AnyResult = self._results.result_of(job, job.past_attempts, self._results.task_of(job, self))
        return result

    def wait_for_end(self, result_id: str, timeout: float | None) -> bool:
        """Wait until the job is over; False if it is not by then."""
        with self._missing(result_id):
            over: bool = self._lifecycle.waiting.wait_for_end(_number(result_id), self.database, timeout)
        return over

    async def await_for_end(self, result_id: str, timeout: float | None) -> bool:
        with self._missing(result_id):
            over: bool = await self._lifecycle.waiting.await_for_end(_number(result_id), self.database, timeout)
        return over

    @contextmanager
    def _missing(self, result_id: str) -> Iterator[None]:
        try:
            yield
        except self._models.Job.DoesNotExist:
            raise TaskResultDoesNotExist(result_id) from None

    # A task may be declared before the app registry is ready, and declaring one makes a backend. So what needs the
    # models is imported when it is used.

    @cached_property
    def _models(self) -> ModuleType:
        self._check_installed()
        from . import models

        return models

    @cached_property
    def _lifecycle(self) -> ModuleType:
        from . import lifecycle

        return lifecycle

    @cached_property
    def _results(self) -> ModuleType:
        from . import results

        return results

    # -- checks ----------------------------------------------------------------------------------

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        where = f"TASKS[{self.alias!r}]"
        found: list[checks.CheckMessage] = [
            checks.Error(
                f"{where}: {problem}", hint=f"Correct it in the setting {where}['OPTIONS'].", id="jobqueue.E001"
            )
            for problem in problems_of(self.options)
        ]
        if not found:
            try:
                self.archive  # noqa: B018
            except ImproperlyConfigured as error:
                found.append(checks.Error(str(error), hint=ARCHIVE_HINT, id="jobqueue.E024"))
        if not apps.is_installed("django_jobqueue"):
            found.append(checks.Error(NOT_INSTALLED.format(where), hint=INSTALL_HINT, id="jobqueue.E002"))
        return found

    def _check_installed(self) -> None:
        if not apps.is_installed("django_jobqueue"):
            raise ImproperlyConfigured(f"{NOT_INSTALLED.format(f'TASKS[{self.alias!r}]')} {INSTALL_HINT}")


ARCHIVE_HINT = "Name a function by its dotted path that takes a list of jobs."
NOT_INSTALLED = "{} uses the job queue, but 'django_jobqueue' is not in INSTALLED_APPS."
INSTALL_HINT = "Add 'django_jobqueue' to INSTALLED_APPS and run manage.py migrate."


def _number(result_id: Any) -> int:
    """The job's number. Raise ``TaskResultDoesNotExist`` for what cannot be one."""
    text = str(result_id)
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or text != str(int(text)):
        raise TaskResultDoesNotExist(result_id)
    number = int(text)
    if number > MAX_ID:
        raise TaskResultDoesNotExist(result_id)
    return number


def waits_of(calls: Sequence[Call]) -> dict[int, tuple[tuple[int, ...], str]]:
    """By the place of a call, the jobs that it waits for, and its rule; nothing for those that wait for none."""
    waiting: dict[int, Any] = {place: call.task for place, call in enumerate(calls) if getattr(call.task, "after", ())}
    check_waits(waiting.values())
    return {place: (task.after, task.if_failed) for place, task in waiting.items()}


def check_numbers(task: AnyTask) -> None:
    """Raise ``InvalidTask`` for a task that waits for what another backend has enqueued."""
    for one in getattr(task, "after", ()):
        if not isinstance(one, int):
            raise InvalidTask(
                f"{task.module_path} cannot wait for {one.task.name} #{one.id}: the backend {one.backend!r} has it."
            )


def check_waits(tasks: Iterable[AnyTask]) -> None:
    """Raise ``InvalidTask`` for a task that has a unique key: the job that has it may be there already, and another
    call's.
    """
    for task in tasks:
        if getattr(task, "unique", None):
            raise InvalidTask(
                f"{task.module_path} has a unique key, so its jobs cannot wait for others: the job that has the key "
                "may be there already. Write .using(unique=False) there."
            )


def moment_after(delay: timedelta, now: datetime) -> datetime:
    """The time to start at. Raise ``InvalidTask`` if there is no such time."""
    if delay < timedelta(0):
        raise InvalidTask(f"run_after must not lie in the past, but is {delay!r}.")
    try:
        moment = now + delay
    except OverflowError:
        raise InvalidTask(f"run_after is too far away: {delay!r}.") from None
    check_run_after(moment)
    return moment


def check_run_after(moment: datetime) -> None:
    """Raise ``InvalidTask`` for a time that not every database can hold."""
    try:
        check_moment("run_after", moment)
    except ValueError as error:
        raise InvalidTask(str(error)) from None


def check_findable(task: AnyTask) -> None:
    """Raise ``InvalidTask`` unless a worker that imports the task's module will find it under its path."""
    if is_of_the_backport(task):
        raise InvalidTask(f"{task.module_path} cannot be enqueued here: {IS_OF_THE_BACKPORT}.")
    try:
        found = resolve(task.module_path)
    except LookupError:
        found = None
    if task.func.__module__ == "__main__":
        raise InvalidTask(f"{task.name} is declared in a script: no worker can import it. Move it to a tasks module.")
    if len(task.module_path) > 255:
        raise InvalidTask(f"The path of {task.module_path} is longer than 255 characters.")
    if found is None or declared_function(found) is not declared_function(task):
        raise InvalidTask(
            f"{task.module_path} is not the name under which this task can be found: a worker looks for a task "
            f"at that path. Apply @task where the function is defined, and keep the function's name."
        )
