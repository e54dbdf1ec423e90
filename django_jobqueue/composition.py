"""Composition: calls one after another (``chain``) and side by side (``group``), enqueued as a whole.

The words are Celery's. But all jobs are there from the beginning, those that wait as WAITING, so that nothing has to be
remembered while they run: what comes next stands in the database, where everybody sees it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, NamedTuple, Self, TypeAlias, cast, overload

from asgiref.sync import sync_to_async

from . import foreign
from .compat import InvalidTask, task_backends
from .gathering import gather
from .middleware.context import current_job
from .registry import copy_of, declared_function
from .task import IF_FAILED, AnyJobResult, Call, Step, is_ours

Part: TypeAlias = "Call | Composition"

#: Parts in parts that a ``repr`` shows.
SHOWN = 3
#: Where so many calls wait for as many, they wait for one job between, which waits for those before.
WIDE = 3


class Enqueued(Sequence[AnyJobResult]):
    """The results of a composition's jobs, in the order in which they were written down; the end's is the last one."""

    def __init__(self, results: Sequence[Any], batch_id: int | None) -> None:
        self._results: Sequence[AnyJobResult] = results
        #: The number of the ``Batch`` that the jobs belong to; None if there are none, and under a backend of another
        #: package.
        self.batch_id = batch_id

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, place: int) -> AnyJobResult: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[AnyJobResult]: ...

    def __getitem__(self, place: int | slice) -> AnyJobResult | Sequence[AnyJobResult]:
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
        if not parts and not isinstance(self, group):
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
        #: How many calls in here wait for what comes before all of it, and does one of them want its result?
        self.heads, self.takes_result = self._heads()

    def _heads(self) -> tuple[int, bool]:
        first = [member.part for member in (self.members[:1] if isinstance(self, chain) else self.members)]
        heads = (1 if isinstance(part, Call) else part.heads for part in first)
        return sum(heads), any(part.takes_result for part in first)

    def __repr__(self) -> str:
        return self._shown(SHOWN)

    def _shown(self, depth: int) -> str:
        name, parts = type(self).__name__, [member.part for member in self.members]
        if not depth:
            return f"{name}(…)"
        shown = (part._shown(depth - 1) if isinstance(part, Composition) else repr(part) for part in parts)
        return f"{name}({', '.join(shown)})"

    def then(self, part: Part, *, if_failed: str = "cancel") -> chain:
        """And then this, with the result; that of a group is the list of its results.

        ``if_failed`` says what becomes of it if something before it has not succeeded: ``"cancel"``, ``"fail"`` or
        ``"run"`` it, with None for what is missing.
        """
        if if_failed not in IF_FAILED:
            raise ValueError(f"if_failed must be one of {IF_FAILED}, not {if_failed!r}.")
        longer = chain(self, part, name=self.name)
        is_flat = isinstance(self, chain) and not self.behind
        longer.members = (*(self.members if is_flat else (Member(self),)), Member(part, if_failed))
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
        if not (steps := Layout().of(self)):
            return Enqueued([], None)
        backend = _backend_of(step.call for step in steps)
        if not is_ours(backend):
            return Enqueued(foreign.enqueue_steps(backend, Layout(gathers=False).of(self)), None)
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
    """Side by side: ``group(resize.s(1), resize.s(2)).then(publish.s())``. A group of nothing hands on ``[]``."""


def enqueue_beside(calls: Iterable[Call], job: Any = None) -> Sequence[AnyJobResult]:
    """Enqueue calls beside a job: what waits for it waits for them too, and a list of results gets theirs at its end.

    Without ``job``, a result or a number, it is the job that runs here: so a batch grows while it runs. Raise
    ``ValueError`` when that job has ended, or its batch was cancelled, and ``LookupError`` where no job runs.
    """
    calls = list(calls)
    for call in calls:
        if not isinstance(call, Call):
            raise TypeError(f"enqueue_beside takes calls such as task.s(1), not {call!r}.")
    if calls and not is_ours(backend := _backend_of(calls)):
        return cast("Sequence[AnyJobResult]", foreign.enqueue_beside(backend, calls, job))
    if job is None:
        if (context := current_job()) is None:
            raise LookupError("enqueue_beside() was called outside of a job: say beside which, with job=.")
        job = context.job
    if not calls:
        return []
    made: Sequence[AnyJobResult] = backend.enqueue_beside(calls, int(getattr(job, "id", job)))
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
    #: Those of the places that are waited for only: what lies before a group of nothing.
    silent: frozenset[int] = frozenset()

    @property
    def telling(self) -> int:
        """How many results there are."""
        return len(self.places) - len(self.silent)


Laying: TypeAlias = Generator["Laying", Ends, Ends]


class Layout:
    """The steps of a composition in the order in which they were written: each waits only for those before it."""

    def __init__(self, *, gathers: bool = True) -> None:
        """``gathers``: put a step between two groups, where each of the second would wait for each of the first."""
        self.steps: list[Step] = []
        self._wide: float = WIDE if gathers else math.inf

    def of(self, composition: Composition) -> list[Step]:
        # The parts of parts on a stack of our own: Python's ends at a few hundred.
        open_ones, ends = [self._lay(Member(composition), Ends())], None
        while open_ones:
            try:
                open_ones.append(next(open_ones[-1]) if ends is None else open_ones[-1].send(ends))
                ends = None
            except StopIteration as end:
                open_ones.pop()
                ends = end.value
        return self.steps

    def _lay(self, member: Member, before: Ends) -> Laying:
        part, rule = member
        if isinstance(part, Call):
            return self._step(part, before, rule)
        first = len(self.steps)
        ends = yield self._chain(part, before, rule) if isinstance(part, chain) else self._group(part, before, rule)
        inside = Ends(tuple(range(first, len(self.steps))))
        for call, its_rule in part.behind:
            assert isinstance(call, Call)
            if inside.places or before.places or its_rule != "rescue":
                self._step(call, inside if inside.places else before, its_rule, takes_result=False)
        return ends

    def _chain(self, part: Composition, before: Ends, rule: str) -> Laying:
        for place, member in enumerate(part.members):
            # the first one waits for what the whole chain waits for
            before = yield self._lay(member if place else member._replace(rule=rule), before)
        return before

    def _group(self, part: Composition, before: Ends, rule: str) -> Laying:
        if not part.members:
            return Ends(before.places, listed=True, silent=frozenset(before.places))
        if len(before.places) >= self._wide and part.heads >= self._wide:
            before = self._gathered(part, before, rule)
        places: dict[int, None] = {}
        silent: set[int] = set()
        for member in part.members:
            ends = yield self._lay(member._replace(rule=rule), before)
            places |= dict.fromkeys(ends.places)
            silent |= ends.silent
        return Ends(tuple(places), listed=True, silent=frozenset(silent))

    def _gathered(self, part: Composition, before: Ends, rule: str) -> Ends:
        """One step between, that waits for all before and hands on the list of their results."""
        like = self.steps[before.places[0]].call.task
        wanted = part.takes_result and before.telling > 0
        task = copy_of(gather, queue_name=like.queue_name, backend=like.backend)
        call = Call(task, () if wanted else (None,), {})
        self.steps.append(Step(call, before.places, rule, wanted, listed=True, silent=before.silent))
        place = len(self.steps) - 1
        if wanted:
            return Ends((place,))
        return Ends((place,), before.listed, frozenset([place]))

    def _step(self, call: Call, before: Ends, rule: str, takes_result: bool = True) -> Ends:
        takes_result = takes_result and call.takes_result
        if takes_result and (before.telling or before.listed):
            check_takes_result(call)
            if not before.telling:  # of nothing but empty groups
                call = replace(call, args=([], *call.args))
        takes_result = takes_result and before.telling > 0
        self.steps.append(Step(call, before.places, rule, takes_result, before.listed, before.silent))
        return Ends((len(self.steps) - 1,))


def check_takes_result(call: Call) -> None:
    """Raise ``InvalidTask`` for a call that has no room for the result of those before it."""
    task = call.task
    args = [None] * (1 + task.takes_context) + list(call.args)
    try:
        signature(declared_function(task)).bind_partial(*args, **call.kwargs)
    except TypeError as error:
        raise InvalidTask(
            f"{task.module_path} cannot take the result of what comes before it in front of its own arguments: "
            f"{error}. Write .si(…) instead of .s(…) if it needs none."
        ) from None
