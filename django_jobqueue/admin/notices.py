"""What an operator should know before he looks at single jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import stats
from ..models import Pause
from .base import database
from .choices import known_queues

if TYPE_CHECKING:
    from django.http import HttpRequest

#: So many paused queues are named; of more, the first.
NAMED = 5


def notices(request: HttpRequest) -> list[str]:
    """Sentences: silent workers, no worker, what is paused."""
    return about_workers() + about_queues(request) + about_pauses()


def about_workers() -> list[str]:
    workers = stats.workers(database())
    sentences = []
    if workers.silent:
        silent = ngettext(
            "%(count)d worker is silent for longer than its lease: a running worker will give its jobs back.",
            "%(count)d workers are silent for longer than their lease: a running worker will give their jobs back.",
            workers.silent,
        )
        sentences.append(silent % {"count": workers.silent})
    if not workers.alive:
        sentences.append(_("No worker is running: jobs stay in line until one starts."))
    return sentences


def about_queues(request: HttpRequest) -> list[str]:
    paused = [name for name, paused_at in known_queues(request).items() if paused_at is not None]
    if not paused:
        return []
    names = _named(paused)
    sentence = ngettext(
        "The queue %(names)s is paused: its jobs stay in line.",
        "The queues %(names)s are paused: their jobs stay in line.",
        len(paused),
    )
    return [sentence % {"names": names}]


def about_pauses() -> list[str]:
    pauses = stats.pauses(database())
    tasks = [pause.name.rpartition(".")[2] for pause in pauses if pause.kind == Pause.Kind.TASK]
    keys = [pause.name for pause in pauses if pause.kind == Pause.Kind.KEY]
    sentences = []
    if tasks:
        sentence = ngettext(
            "The task %(names)s is paused: its jobs stay in line.",
            "The tasks %(names)s are paused: their jobs stay in line.",
            len(tasks),
        )
        sentences.append(sentence % {"names": _named(tasks)})
    if keys:
        sentence = ngettext(
            "The key %(names)s is paused: jobs that come to run under it are put off.",
            "The keys %(names)s are paused: jobs that come to run under them are put off.",
            len(keys),
        )
        sentences.append(sentence % {"names": _named(keys)})
    return sentences


def _named(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
