"""Keep: for how long a finished job stays, where its task or its call says so.

Few do, and only those jobs carry the time at which they are to be deleted; all others go by the project's retention,
which is asked when they are pruned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from django.db.models import Case, When
from django.db.models.functions import Now

from ..exceptions import UnknownTask
from ..models import Job
from ..registry import resolve
from ..retention import FOREVER

_NOTHING: Mapping[str, Any] = {}
#: What the tasks say by their paths, as far as they have been asked: that is done for each job.
_known: dict[str, Mapping[str, Any]] = {}


def keep_of(job: Job, status: str) -> float | None:
    """For how many seconds the job is kept once it has ended so; None if nobody has said anything."""
    said = _known.get(job.task_path)
    if said is None:
        said = _declared(job.task_path)
    if job.options and status in (given := _given(job)):
        said = given
    if status not in said:
        return None
    seconds = said[status]
    return FOREVER if seconds is None else seconds


def _declared(path: str) -> Mapping[str, Any]:
    """What the task says. A process that does not know the task leaves its jobs to the project's retention."""
    try:
        _known[path] = found = getattr(resolve(path), "keep", _NOTHING)
    except UnknownTask:
        return _NOTHING
    return found


def _given(job: Job) -> Mapping[str, Any]:
    """What the call says. The column may hold anything: rows can be changed by hand."""
    options = job.options
    try:
        options = json.loads(options) if isinstance(options, str) else options
    except ValueError:
        return _NOTHING
    given = options.get("keep") if isinstance(options, dict) else None
    if not isinstance(given, dict):
        return _NOTHING
    return {status: seconds for status, seconds in given.items() if seconds is None or _is_number(seconds)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= FOREVER


def deleted_at(jobs: Iterable[Job], status: str) -> dict[str, Any]:
    """The change of columns for jobs that end so all at once: when those of them are deleted that say so."""
    kept: dict[float, list[int]] = {}
    for job in jobs:
        if (seconds := keep_of(job, status)) is not None:
            kept.setdefault(seconds, []).append(job.pk)
    if not kept:
        return {}
    whens = [When(pk__in=ids, then=Now() + timedelta(seconds=seconds)) for seconds, ids in kept.items()]
    return {"prune_at": Case(*whens, default=None)}
