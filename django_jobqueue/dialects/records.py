"""What a dialect is told and tells: values without a database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple


class Lane(NamedTuple):
    """Jobs that stand in one line: one queue, one priority. Smaller places run first."""

    queue_name: str
    priority: int


class Peek(NamedTuple):
    """What there is to do, in one look."""

    #: Is any job in line?
    in_line: bool
    #: In how many seconds is the next scheduled one due?
    due_in: float | None
    #: Is any task paused?
    paused: bool
    #: Has a job ended, and those who wait for it have not been told?
    ended: bool
    #: Does any job wait for a slot of its concurrency key?
    limited: bool


class Admitted(NamedTuple):
    """What became of the jobs that wait for slots of a few keys."""

    #: In which jobs came in line.
    lanes: set[Lane]
    #: Keys that may have slots for more.
    unfinished: set[str]
    #: Tasks of which it was not said how many slots there are: a job of one of them holds up those behind it.
    strangers: set[str]


class Terms(NamedTuple):
    """What a rate allows, and how many starts are wanted at once."""

    #: So many in any period of so many seconds.
    starts: int
    period: float
    #: And so many in a part of it that is as large as this part of the starts.
    burst: int
    number: int = 1
    #: They may be used within so many seconds.
    hold: float = 0.0


class Drawn(NamedTuple):
    """How many starts there were."""

    number: int
    #: By this process's monotonic clock: not later than when their time began by the database's.
    asked_at: float = 0.0
    #: If there was none: in how many seconds to ask again.
    wait: float = 0.0
    #: If the key is paused: when to come back.
    held_until: datetime | None = None


class Filter(NamedTuple):
    """A condition on the columns of a job, in SQL: only what meets it is claimed."""

    sql: str
    params: tuple[Any, ...]


#: What everything meets.
ANY = Filter("", ())


@dataclass(frozen=True, slots=True)
class Fields:
    """What becomes of the job's row when an attempt ends.

    ``place`` is ``keep``, ``none`` (scheduled), ``next`` (at the end of the line) or ``isolate``. ``keep`` is for how
    many seconds the job stays when it is over, ``result_ttl`` for how many its result does; None: as all do.
    """

    status: str
    final: bool
    place: str = "keep"
    delay: float = 0.0
    run_after: str | None = None
    queue_name: str | None = None
    priority: int | None = None
    counted: bool = True
    lost: bool = False
    result: Any = None
    keep: float | None = None
    result_ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """One attempt's end as it is written down: the fence, the job's new fields and the attempt's row.

    ``waited`` and ``took`` are seconds from the claim to the start and to the end, measured by one clock, so that
    every time that is stored is the database's own.
    """

    id: int
    fence: int
    worker_id: int
    waited: float
    took: float
    fields: Fields
    outcome: str
    message: str = ""
    exception_class_path: str = ""
    traceback: str = ""
    log: str | None = None


class Success(NamedTuple):
    """The end of an attempt that went well: most are of this kind, and there is little to say of them.

    ``started_at`` and ``attempts`` are the row's, as the claim has left them; ``waited`` and ``took`` as in ``Ending``;
    ``result`` is JSON.
    """

    id: int
    fence: int
    worker_id: int
    attempts: int
    started_at: datetime
    waited: float
    took: float
    result: str | None

    def ending(self) -> Ending:
        result = None if self.result is None else json.loads(self.result)
        fields = Fields(status="SUCCESSFUL", final=True, result=result)
        return Ending(self.id, self.fence, self.worker_id, self.waited, self.took, fields, outcome="succeeded")

    @property
    def began(self) -> datetime:
        return self.started_at + timedelta(seconds=self.waited)

    @property
    def ended(self) -> datetime:
        return self.started_at + timedelta(seconds=self.took)


@dataclass(frozen=True, slots=True)
class Release:
    """A claimed job that was not started, to be given back; ``delay`` seconds before it may be claimed again.

    ``keep`` is for how many seconds it stays if it turns out to be cancelled; None: as all do.
    """

    id: int
    fence: int
    delay: float = 0.0
    keep: float | None = None


def as_document(endings: Sequence[Ending]) -> str:
    """The endings as one JSON document, flat, in the order of their ids so that two writers never deadlock."""
    return json.dumps([_flat(ending) for ending in sorted(endings, key=lambda ending: ending.id)])


def _flat(ending: Ending) -> dict[str, Any]:
    # by hand: dataclasses.asdict copies recursively and takes ten times as long, for each job
    return dict(zip(_NAMES, (*_ending(ending), *_fields(ending.fields)), strict=True))


_ENDING = tuple(field.name for field in fields(Ending) if field.name != "fields")
_FIELDS = tuple(field.name for field in fields(Fields))
_NAMES = _ENDING + _FIELDS
_ending, _fields = attrgetter(*_ENDING), attrgetter(*_FIELDS)
