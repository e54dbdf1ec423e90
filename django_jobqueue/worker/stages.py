"""Stages: the transactions of an attempt. In the first one layers prepare it, in the last one they complete it.

They are the job's own thread's, so that the layers' rows are committed with the outcome or not at all. An attempt
without such layers has none of this: its outcome is written by the completer, with many others. The phases are
Queuert's; with ``@task(atomic=True)`` they and the task are one transaction, as there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connections, transaction

from ..dialects import get_dialect
from ..exceptions import MiddlewareError
from ..lifecycle import Run, finish
from ..lifecycle.lease import holds
from ..middleware.chain import Follower, Handler, complete_through, prepare_through
from ..middleware.context import JobContext
from ..middleware.database_connections import of_this_thread
from ..outcomes import Outcome, State

if TYPE_CHECKING:
    from .execution import Execution

logger = logging.getLogger(__name__)

#: Seconds before each further try to write an outcome while the database is away.
PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)


class Lost(BaseException):
    """The attempt is not ours any more: others have the job, and nothing of it is to be written."""


class Undone(Exception):
    """Leaves the one transaction of an atomic task, to undo it."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """How the jobs of one task are run: its chain, and the hooks of its layers around transactions."""

    handler: Handler
    prepare: tuple[Callable[..., Any], ...] = ()
    complete: tuple[Callable[..., Any], ...] = ()
    #: Innermost first, as with all that comes after.
    followers: tuple[Follower, ...] = ()
    atomic: bool = False
    #: Has it transactions of its own? Asked for each job.
    is_staged: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_staged", bool(self.prepare or self.complete or self.atomic))


def for_this_job(plan: Plan, context: JobContext) -> Plan:
    """The plan without the completions that their layers do not want for this job."""
    wanted = tuple(hook for hook in plan.complete if wants(hook, context))
    return plan if len(wanted) == len(plan.complete) else replace(plan, complete=wanted)


def wants(hook: Callable[..., Any], context: JobContext) -> bool:
    ask = getattr(hook.__self__, "completes", None)  # type: ignore[attr-defined]
    try:
        return ask is None or bool(ask(context))
    except Exception:
        logger.exception("completes() raised for %s; its process_complete is taken to be wanted.", context.job)
        return True


class Stages:
    def __init__(self, execution: Execution, using: str) -> None:
        self.execution, self.using = execution, using

    def run(self, plan: Plan, run: Run, context: JobContext) -> None:
        """Run a sync task's job and, unless a hook or the database prevents it, write what it came to."""
        try:
            plan = for_this_job(plan, context)
            if not plan.is_staged:
                run.outcome = self.execution.outcome(plan.handler, run, context)
                return
            self._refresh_connection()
            if plan.atomic:
                self._run_in_one(plan, run, context)
            else:
                outcome = self.execution.outcome(lambda context: self._prepare_and_run(plan, context), run, context)
                self._complete(plan, run, context, outcome)
        except Lost:
            self._let_go(run)

    async def arun(self, plan: Plan, run: Run, context: JobContext) -> None:
        """The same for an async task; its transactions are in the job's own thread."""

        async def prepare_and_run(context: JobContext) -> Any:
            if plan.prepare:
                context = await sync_to_async(self._prepare)(plan, context)
            return await plan.handler(context)

        try:
            plan = for_this_job(plan, context)
            outcome = await self.execution.aoutcome(prepare_and_run, run, context)
            if plan.complete:
                await sync_to_async(self._complete)(plan, run, context, outcome)
            else:
                run.outcome = outcome
        except Lost:
            self._let_go(run)

    def _let_go(self, run: Run) -> None:
        run.is_written, run.status, run.ended = True, None, time.monotonic()
        run.outcome = run.outcome or Outcome(state=State.LOST, status="READY", message="Others have the job.")

    # -- prepare ---------------------------------------------------------------------------------

    def _prepare_and_run(self, plan: Plan, context: JobContext) -> Any:
        return plan.handler(self._prepare(plan, context) if plan.prepare else context)

    def _prepare(self, plan: Plan, context: JobContext) -> JobContext:
        def prepare() -> JobContext:
            self._check_ours(context, lock=True)
            return prepare_through(plan.prepare, context)

        return get_dialect(self.using).transact(prepare)

    def _check_ours(self, context: JobContext, *, lock: bool) -> None:
        if not holds(context.job, self.using, lock=lock):
            raise Lost

    # -- complete --------------------------------------------------------------------------------

    def _complete(self, plan: Plan, run: Run, context: JobContext, outcome: Outcome) -> None:
        """Write the outcome. If that cannot be, leave it to the completer, which writes it without the hooks."""
        run.outcome, run.ended = outcome, run.ended or time.monotonic()
        if not plan.complete:
            return
        for pause in (*PAUSES, None):
            try:
                run.status = get_dialect(self.using).transact(lambda: self._write(plan, run, context, outcome))
                run.is_written = True
                return
            except Exception as error:
                if pause is None or not self._is_gone(error):
                    run.outcome = self._despite(error, run, context, outcome)
                    return
                logger.error("The outcome of %s cannot be written yet: %s", run.job, str(error).strip())
                connections[self.using].close()
                time.sleep(pause)

    def _write(self, plan: Plan, run: Run, context: JobContext, outcome: Outcome) -> str:
        """The hooks, and inside them the outcome; the job's status then."""
        status = ""

        def write(outcome: Outcome) -> None:
            nonlocal status
            run.outcome = outcome
            if not (status := finish([run], self.using).get(run.job.pk, "")):
                raise Lost

        complete_through(plan.complete, context, outcome, write)
        if not status:  # else the job would stay RUNNING for as long as this worker lives
            raise MiddlewareError("A middleware hid that process_complete of an inner one raised: nothing was written.")
        return status

    def _despite(self, error: Exception, run: Run, context: JobContext, outcome: Outcome) -> Outcome:
        """What the attempt comes to when its completion has raised: a success fails, what had failed stays so."""
        if outcome.status == "SUCCESSFUL":
            return self.execution.classify(error, run, context)
        logger.error("process_complete of %s raised; its outcome is written without.", run.job, exc_info=error)
        return outcome

    # -- all in one transaction ------------------------------------------------------------------

    def _run_in_one(self, plan: Plan, run: Run, context: JobContext) -> None:
        def handler(context: JobContext) -> Any:
            # no lock: a cancel must not have to wait until the task has ended
            self._check_ours(context, lock=False)
            return plan.handler(prepare_through(plan.prepare, context))

        try:
            with transaction.atomic(using=self.using):
                outcome = self.execution.outcome(handler, run, context)
                run.ended = time.monotonic()
                if outcome.state is not State.SUCCEEDED:
                    raise Undone(outcome)
                run.status = self._write(plan, run, context, outcome)
            run.is_written = True
        except Undone as undone:
            self._complete(plan, run, context, undone.outcome)
        except Exception as error:  # the hooks', or the commit's
            run.outcome = self.execution.classify(error, run, context)

    # -- the connection --------------------------------------------------------------------------

    def _refresh_connection(self) -> None:
        """As before a request: a connection that is too old, or has had errors, is not used again."""
        if of_this_thread():
            connections[self.using].close_if_unusable_or_obsolete()

    def _is_gone(self, error: Exception) -> bool:
        """Has the database gone away, rather than refused something?"""
        connection = connections[self.using]
        if not isinstance(error, DatabaseError | InterfaceError):
            return False
        return connection.connection is None or not connection.is_usable()
