"""Stages: the transactions of an attempt. In the first one layers prepare it, in the last one they complete it.

They are the job's own thread's, so that the layers' rows are committed with the outcome or not at all. An attempt
without such layers has none of this: its outcome is written by the completer, with many others. The phases are
Queuert's; with ``@task(atomic=True)`` they and the task are one transaction, as there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from ..dialects import get_dialect
from ..exceptions import MiddlewareError
from ..lifecycle import Run, finish
from ..lifecycle.finish import written_before
from ..lifecycle.lease import holds
from ..lifecycle.reap import lost
from ..logs import get_logger
from ..middleware.chain import Follower, Handler, complete_through, prepare_through
from ..middleware.context import JobContext
from ..middleware.database_connections import of_this_thread
from ..models import Job
from ..outcomes import Outcome, State
from .recovery import Recovery

if TYPE_CHECKING:
    from .execution import Execution

logger = get_logger(__name__)

#: Seconds before each further try of a transaction whose connection was cut though the database is there.
PAUSES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)

T = TypeVar("T")


class Lost(BaseException):
    """The attempt is not ours any more: others have the job, and nothing of it is to be written."""


class CutOff(Exception):
    """The connection of an atomic task's transaction was lost; its cause says how."""


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
    def __init__(self, execution: Execution, using: str, recovery: Recovery, given_up: Callable[[], bool]) -> None:
        self.execution, self.using, self.recovery, self.given_up = execution, using, recovery, given_up

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

        return self._again_if_cut(lambda: get_dialect(self.using).transact(prepare), context.job)

    def _check_ours(self, context: JobContext, *, lock: bool) -> None:
        if not holds(context.job, self.using, lock=lock):
            raise Lost

    # -- complete --------------------------------------------------------------------------------

    def _complete(self, plan: Plan, run: Run, context: JobContext, outcome: Outcome) -> None:
        """Write the outcome. If that cannot be, leave it to the completer, which writes it without the hooks."""
        run.outcome, run.ended = outcome, run.ended or time.monotonic()
        if not plan.complete:
            return
        tries = 0

        def write() -> str:
            nonlocal tries
            tries += 1
            return get_dialect(self.using).transact(lambda: self._write(plan, run, context, outcome))

        try:
            run.status = self._again_if_cut(write, run.job)
            run.is_written = True
        except Lost:
            # Or it was ours, and is committed: only the answer was lost with the connection.
            if tries < 2 or not self._is_committed(run):
                raise
        except Exception as error:
            run.outcome = self._despite(error, run, context, outcome)

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
        has_begun = False

        def handler(context: JobContext) -> Any:
            return plan.handler(prepare_through(plan.prepare, context))

        def run_it() -> None:
            nonlocal has_begun
            with transaction.atomic(using=self.using):
                get_dialect(self.using).note_connection()
                # no lock: a cancel must not have to wait until the task has ended
                self._check_ours(context, lock=False)
                has_begun = True
                outcome = self.execution.outcome(handler, run, context)
                run.ended = time.monotonic()
                if outcome.state is not State.SUCCEEDED:
                    raise Undone(outcome)
                run.status = self._write(plan, run, context, outcome)

        try:
            self._again_if_cut(run_it, run.job, unless=lambda: has_begun)
            run.is_written = True
        except Undone as undone:
            self._complete(plan, run, context, undone.outcome)
        except CutOff as cut:
            if not self._is_committed(run):
                logger.error("The transaction of %s was cut off before its commit: %s", run.job, cut.__cause__)
                run.outcome = lost(run.job, "The connection broke before the task's transaction was committed")
        except Exception as error:  # the hooks', or the commit's
            run.outcome = self.execution.classify(error, run, context)

    def _is_committed(self, run: Run) -> bool:
        """Has the transaction been committed whose answer was lost with its connection? Then that is noted."""
        status = self._again_if_cut(lambda: written_before([run], self.using), run.job).get(run.job.pk)
        if status is not None:
            run.is_written, run.status = True, status
        return status is not None

    # -- the connection --------------------------------------------------------------------------

    def _refresh_connection(self) -> None:
        """As before a request: a connection that is too old, or has had errors, is not used again."""
        if of_this_thread():
            connections[self.using].close_if_unusable_or_obsolete()

    def _again_if_cut(self, do: Callable[[], T], job: Job, unless: Callable[[], bool] = lambda: False) -> T:
        """``do()``, which is one transaction of the queue's; again on a fresh connection if its own was cut. That must
        not count against the job, whatever has been raised because of it, and for as long as the database is away.
        """
        dialect = get_dialect(self.using)
        for pause in (*PAUSES, None):
            try:
                return do()
            except Exception as error:
                if isinstance(error, Undone) or not dialect.was_cut():
                    raise
                dialect.close()
                if unless():
                    raise CutOff from error
                if pause is None:
                    raise
                logger.warning("A transaction of %s was cut off and is tried again: %s", job, str(error).strip())
            self.recovery.pause(pause, self.given_up)
            if self.given_up():
                raise Lost
        raise AssertionError("unreachable")
