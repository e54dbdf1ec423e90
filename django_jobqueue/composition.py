"""Composition: calls one after another (``chain``) and side by side (``group``), enqueued as a whole.

The words are Celery's. But all jobs are there from the beginning, those that wait as WAITING, so that nothing has to be
remembered while they run: what comes next stands in the database, where everybody sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any, NamedTuple, Self, TypeAlias, overload

from asgiref.sync import sync_to_async

from . import foreign
from .compat import AnyResult, InvalidTask, task_backends
from .middleware.context import current_job
from .task import IF_FAILED, Call, Step, is_ours

Part: TypeAlias = "Call | Composition"


class Enqueued(Sequence[AnyResult]):
    """The results of a composition's jobs, in the order in which they were written down; the end's is the last one."""

    def __init__(self, results: Sequence[AnyResult], batch_id: int | None) -> None:
        self._results = results
        #: The number of the ``Batch`` that the jobs belong to; None under a backend of another package.
        self.batch_id = batch_id

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, place: int) -> AnyResult: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[AnyResult]: ...

    def __getitem__(self, place: int | slice) -> AnyResult | Sequence[AnyResult]:
        return self._results[place]

    def __repr__(self) -> str:
        return f"<Enqueued: batch #{self.batch_id}, {len(self)} jobs>"


class Member(NamedTuple):
    """A part, and the rule for it if something that it waits for has not succeeded."""

    part: Part
    rule: str = "cancel"


class Composition:
    """Calls in some order, not enqueued yet. It does not change: each method makes another one."""

    def __init__(self, *parts: Part, name: str = "") -> None:
        if not parts:
            raise ValueError(f"{type(self).__name__}() needs at least one call.")
        for part in parts:
            if not isinstance(part, Call | Composition):
                raise TypeError(f"{type(self).__name__} takes task.s(…), chains and groups, not {part!r}.")
        if not isinstance(name, str) or len(name) > 200:
            raise ValueError(f"The name must be a string of at most 200 characters, not {name!r}.")
        self.members = tuple(map(Member, parts))
        self.name = name
        #: What comes when all of it has ended.
        self.behind: tuple[Member, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(member.part) for member in self.members)})"

    def then(self, part: Part, *, if_failed: str = "cancel") -> chain:
        """And then this, with the result; that of a group is the list of its results.

        ``if_failed`` says what becomes of it if something before it has not succeeded: ``"cancel"``, ``"fail"`` or
        ``"run"`` it, with None for what is missing.
        """
        if if_failed not in IF_FAILED:
            raise ValueError(f"if_failed must be one of {IF_FAILED}, not {if_failed!r}.")
        longer = chain(self, part, name=self.name)
        longer.members = (Member(self), Member(part, if_failed))
        return longer

    def on_failure(self, call: Call) -> Self:
        """And this call if anything in here has not succeeded, once all has ended. It gets no result."""
        return self._with_behind(call, "rescue")

    def finally_(self, call: Call) -> Self:
        """And this call once all in here has ended, however it did. It gets no result."""
        return self._with_behind(call, "run")

    def _with_behind(self, call: Call, rule: str) -> Self:
        if not isinstance(call, Call):
            raise TypeError(f"on_failure and finally_ take a call such as task.s(1), not {call!r}.")
        other = type(self)(*(member.part for member in self.members), name=self.name)
        other.members = self.members
        other.behind = (*self.behind, Member(call, rule))
        return other

    def enqueue(self) -> Enqueued:
        """Enqueue all calls in one transaction. The first ones can start at once, the others wait for those before.

        Raise what ``Task.enqueue`` raises for the first call that cannot be enqueued, and ``InvalidTask`` for one that
        cannot take the result of those before it; then nothing has been enqueued.
        """
        steps = Layout().of(self)
        backend = _backend_of(step.call for step in steps)
        if not is_ours(backend):
            return Enqueued(foreign.enqueue_steps(backend, steps), None)
        batch_id, results = backend.enqueue_steps(steps, self.name)
        return Enqueued(results, batch_id)

    async def aenqueue(self) -> Enqueued:
        """``enqueue`` for coroutines."""
        return await sync_to_async(self.enqueue, thread_sensitive=True)()


class chain(Composition):  # noqa: N801 - called like a function, as in Celery
    """One after another: ``chain(fetch.s(url), resize.s(width=200))``. Each gets the result of the one before it, in
    front of its own arguments; with ``.si(…)`` instead of ``.s(…)`` it gets none.
    """


class group(Composition):  # noqa: N801
    """Side by side: ``group(resize.s(1), resize.s(2)).then(publish.s())``."""


def enqueue_beside(calls: Iterable[Call], job: Any = None) -> Sequence[AnyResult]:
    """Enqueue calls beside a job: what waits for it waits for them too, and a list of results gets theirs at its end.

    Without ``job``, a result or a number, it is the job that runs here: so a batch grows while it runs. Raise
    ``ValueError`` when that job has ended, or its batch was cancelled, and ``LookupError`` where no job runs.
    """
    calls = list(calls)
    for call in calls:
        if not isinstance(call, Call):
            raise TypeError(f"enqueue_beside takes calls such as task.s(1), not {call!r}.")
    if calls and not is_ours(backend := _backend_of(calls)):
        return foreign.enqueue_beside(backend, calls, job)
    if job is None:
        if (context := current_job()) is None:
            raise LookupError("enqueue_beside() was called outside of a job: say beside which, with job=.")
        job = context.job
    if not calls:
        return []
    made: Sequence[AnyResult] = backend.enqueue_beside(calls, int(getattr(job, "id", job)))
    return made


def _backend_of(calls: Iterable[Call]) -> Any:
    """The backend of the calls. Raise ``InvalidTask`` if they have several."""
    aliases = sorted({call.task.backend for call in calls})
    if len(aliases) > 1:
        raise InvalidTask(f"The tasks of a chain or group must have the same backend, not {' and '.join(aliases)}.")
    return task_backends[aliases[0]]


# -- from parts to steps --------------------------------------------------------------------------


class Ends(NamedTuple):
    """The steps at the end of a part, and whether their results go on as a list."""

    places: tuple[int, ...] = ()
    listed: bool = False


class Layout:
    """The steps of a composition in the order in which they were written: each waits only for those before it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def of(self, composition: Composition) -> list[Step]:
        self._lay(Member(composition), Ends())
        return self.steps

    def _lay(self, member: Member, before: Ends) -> Ends:
        part, rule = member
        if isinstance(part, Call):
            return self._step(part, before, rule)
        first = len(self.steps)
        ends = self._chain(part, before, rule) if isinstance(part, chain) else self._group(part, before, rule)
        inside = Ends(tuple(range(first, len(self.steps))))
        for call, its_rule in part.behind:
            assert isinstance(call, Call)
            self._step(call, inside, its_rule, takes_result=False)
        return ends

    def _chain(self, part: Composition, before: Ends, rule: str) -> Ends:
        for place, member in enumerate(part.members):
            # the first one waits for what the whole chain waits for
            before = self._lay(member if place else member._replace(rule=rule), before)
        return before

    def _group(self, part: Composition, before: Ends, rule: str) -> Ends:
        ends = [self._lay(member._replace(rule=rule), before) for member in part.members]
        return Ends(tuple(place for end in ends for place in end.places), listed=True)

    def _step(self, call: Call, before: Ends, rule: str, takes_result: bool = True) -> Ends:
        takes_result = takes_result and call.takes_result and bool(before.places)
        if takes_result:
            check_takes_result(call)
        self.steps.append(Step(call, before.places, rule, takes_result, before.listed))
        return Ends((len(self.steps) - 1,))


def check_takes_result(call: Call) -> None:
    """Raise ``InvalidTask`` for a call that has no room for the result of those before it."""
    task = call.task
    args = [None] * (1 + task.takes_context) + list(call.args)
    try:
        signature(task.func).bind_partial(*args, **call.kwargs)
    except TypeError as error:
        raise InvalidTask(
            f"{task.module_path} cannot take the result of what comes before it in front of its own arguments: "
            f"{error}. Write .si(…) instead of .s(…) if it needs none."
        ) from None
