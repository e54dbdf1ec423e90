"""What an operator should know before he looks at single jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import stats
from .base import database
from .choices import known_queues

if TYPE_CHECKING:
    from django.http import HttpRequest

#: So many paused queues are named; of more, the first.
NAMED = 5


def notices(request: HttpRequest) -> list[str]:
    """Sentences: silent workers, no worker, paused queues."""
    return about_workers() + about_queues(request)


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
    names = ", ".join(paused[:NAMED]) + (" …" if len(paused) > NAMED else "")
    sentence = ngettext(
        "The queue %(names)s is paused: its jobs stay in line.",
        "The queues %(names)s are paused: their jobs stay in line.",
        len(paused),
    )
    return [sentence % {"names": names}]
