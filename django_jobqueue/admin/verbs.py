"""What can be done to jobs: who may, to which jobs, and the sentences that say what happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from ..lifecycle import control
from .kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..models import Job

#: What was done, as (sentence, number of jobs), with at least one job each.
Done = list[tuple[Any, int]]


@dataclass(frozen=True, slots=True)
class Verb:
    name: str
    label: Any
    #: For the action's menu.
    plural: Any
    #: The permission's codename; ``ReadOnlyAdmin.may`` asks for it.
    permission: str
    #: The words of the kinds of jobs that it does something to.
    kinds: frozenset[str]
    #: Does it, and says how many were left alone because another job has their unique key.
    apply: Callable[[list[int], str], tuple[Done, int]]
    #: Is the job so already?
    is_done: Callable[[Job], bool] = lambda job: False

    def can(self, job: Job) -> bool:
        return kind_of(job).word in self.kinds and not self.is_done(job)


@dataclass(frozen=True, slots=True)
class Report:
    """What became of some jobs, in sentences."""

    done: int
    sentences: list[str]

    def __str__(self) -> str:
        return " ".join(self.sentences)


def act(verb: Verb, jobs: Iterable[Job], using: str) -> Report:
    """Do it to the jobs that it can be done to, and say what became of all of them."""
    able: list[int] = []
    left: Counter[str] = Counter()
    for job in jobs:
        if verb.can(job):
            able.append(job.pk)
        else:
            left[_why_not(verb, job)] += 1
    done, held = verb.apply(able, using) if able else ([], 0)
    number = sum(count for _sentence, count in done)
    left += Counter(held=held, changed=len(able) - number - held)
    sentences = done + [(sentence, left[word]) for word, sentence in LEFT_ALONE.items() if left[word]]
    return Report(number, [str(sentence % {"count": count}) for sentence, count in sentences])


def _why_not(verb: Verb, job: Job) -> str:
    """A word of ``LEFT_ALONE``."""
    if job.is_cancelling:
        return "cancelling"
    word = kind_of(job).word
    return "already" if word in verb.kinds and verb.is_done(job) else word


def _retry(ids: list[int], using: str) -> tuple[Done, int]:
    result = control.retry_all(ids, using=using)
    return some((RETRIED, result.retried)), result.held


def _cancel(ids: list[int], using: str) -> tuple[Done, int]:
    result = control.cancel(ids, using=using)
    return some((CANCELLED, result.cancelled), (ASKED, result.requested)), 0


def _run_now(ids: list[int], using: str) -> tuple[Done, int]:
    return some((PUT_IN_LINE, control.run_now(ids, using=using))), 0


def some(*done: tuple[Any, int]) -> Done:
    return [(sentence, count) for sentence, count in done if count]


RETRIED = ngettext_lazy("%(count)d job was put back in line.", "%(count)d jobs were put back in line.", "count")
CANCELLED = ngettext_lazy("%(count)d job was cancelled.", "%(count)d jobs were cancelled.", "count")
ASKED = ngettext_lazy("%(count)d running job was asked to stop.", "%(count)d running jobs were asked to stop.", "count")
PUT_IN_LINE = ngettext_lazy("%(count)d job was put in line.", "%(count)d jobs were put in line.", "count")

LEFT_ALONE = {
    "already": ngettext_lazy(
        "%(count)d was left alone because it is so already.",
        "%(count)d were left alone because they are so already.",
        "count",
    ),
    "ready": ngettext_lazy(
        "%(count)d was left alone because it is in line.",
        "%(count)d were left alone because they are in line.",
        "count",
    ),
    "scheduled": ngettext_lazy(
        "%(count)d was left alone because it is scheduled.",
        "%(count)d were left alone because they are scheduled.",
        "count",
    ),
    "running": ngettext_lazy(
        "%(count)d was left alone because it is running.",
        "%(count)d were left alone because they are running.",
        "count",
    ),
    "cancelling": ngettext_lazy(
        "%(count)d was left alone because it has been asked to stop.",
        "%(count)d were left alone because they have been asked to stop.",
        "count",
    ),
    "waiting": ngettext_lazy(
        "%(count)d was left alone because it is waiting for others, or for a slot.",
        "%(count)d were left alone because they are waiting for others, or for slots.",
        "count",
    ),
    "failed": ngettext_lazy(
        "%(count)d was left alone because it has failed.",
        "%(count)d were left alone because they have failed.",
        "count",
    ),
    "cancelled": ngettext_lazy(
        "%(count)d was left alone because it is cancelled.",
        "%(count)d were left alone because they are cancelled.",
        "count",
    ),
    "successful": ngettext_lazy(
        "%(count)d was left alone because it has succeeded.",
        "%(count)d were left alone because they have succeeded.",
        "count",
    ),
    "held": ngettext_lazy(
        "%(count)d was left alone because another job has its unique key.",
        "%(count)d were left alone because other jobs have their unique keys.",
        "count",
    ),
    "changed": ngettext_lazy(
        "%(count)d was left alone because it changed in the meantime.",
        "%(count)d were left alone because they changed in the meantime.",
        "count",
    ),
}

RETRY = Verb("retry", _("Retry"), _("Retry selected jobs"), "retry_job", frozenset({"failed", "cancelled"}), _retry)
CANCEL = Verb(
    "cancel",
    _("Cancel"),
    _("Cancel selected jobs"),
    "cancel_job",
    frozenset({"ready", "scheduled", "waiting", "running"}),
    _cancel,
    lambda job: job.is_cancelling,
)
RUN_NOW = Verb("run_now", _("Run now"), _("Run selected jobs now"), "retry_job", frozenset({"scheduled"}), _run_now)

VERBS = {verb.name: verb for verb in (RETRY, RUN_NOW, CANCEL)}
