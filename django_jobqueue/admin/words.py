"""How values are written on our pages. Everything here is text, or HTML with all values escaped."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from ..models import Job
from ..outcomes import storable
from .kinds import kind_of

if TYPE_CHECKING:
    from datetime import datetime

    from django.utils.safestring import SafeString


CALL_LENGTH = 60
TITLE_LENGTH = 500
#: Values up to this length stand in one line on the job's page; longer ones are indented,
ONE_LINE = 40
#: still longer ones folded ...
FOLD_FROM = 800
#: ... and cut here, so that a huge one cannot choke the browser.
CUT_AT = 100_000

NOTHING = "–"


def coloured(word: str, label: Any, title: Any = "") -> SafeString:
    """A word in the colour of its meaning; ``word`` picks the colour in admin.css."""
    return format_html('<span class="jq-word jq-{}" title="{}">{}</span>', word, title, label)


def state(job: Job) -> SafeString:
    kind = kind_of(job)
    if job.is_cancelling:
        return coloured("cancelling", _("Cancelling"), _("Asked to stop, and still running."))
    return coloured(kind.word, kind.label)


def span(time: timedelta) -> str:
    """A length of time with at most two units: ``850 ms``, ``12 s``, ``3 min 20 s``, ``2 d 5 h``."""
    seconds = max(0.0, time.total_seconds())
    if seconds < 1:
        return _("%d ms") % (seconds * 1000)
    if seconds < 10:
        return _("%.1f s") % seconds
    if seconds < 60:
        return _("%d s") % seconds
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if minutes < 60:
        return _two(_("%d min") % minutes, _("%d s"), int(seconds) % 60)
    if hours < 24:
        return _two(_("%d h") % hours, _("%d min"), minutes % 60)
    return _two(_("%d d") % days, _("%d h"), hours % 24)


def roughly(time: timedelta) -> str:
    """``span`` with one unit: ``3 min``, ``2 d``."""
    seconds = max(0, int(time.total_seconds()))
    size = next((size for size in (86_400, 3600, 60) if seconds >= size), 1)
    if size == 1:
        return _("%d s") % seconds
    return span(timedelta(seconds=seconds // size * size))


def _two(first: str, second: str, rest: int) -> str:
    return f"{first} {second % rest}" if rest else first


def ago(moment: datetime | None, now: datetime | None = None) -> SafeString | str:
    """``12 s ago``, with the time itself as its title."""
    if moment is None:
        return NOTHING
    passed = (now or timezone.now()) - moment
    return at(moment, _("%s ago") % span(passed) if passed >= timedelta(seconds=1) else _("just now"))


def until(moment: datetime) -> SafeString:
    """``in 5 min``, or ``due`` where the time has come."""
    left = moment - timezone.now()
    return at(moment, _("in %s") % roughly(left) if left > timedelta(0) else _("due"))


def at(moment: datetime, text: str = "") -> SafeString:
    try:
        local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    except (OverflowError, ValueError):  # on the edge of what Python can tell
        local = moment
    full = date_format(local, "Y-m-d H:i:s")
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), full, text or full)


def moment(time: datetime | None) -> SafeString | str:
    """``2026-03-01 09:30:00 (3 h ago)``."""
    if time is None:
        return ""
    passed = timezone.now() - time
    if passed < timedelta(0):
        distance = until(time)
    elif passed < timedelta(seconds=1):
        distance = at(time, _("just now"))
    else:
        distance = at(time, _("%s ago") % roughly(passed))
    return format_html("{} ({})", at(time), distance)


def call(job: Job) -> str:
    """The call as one would write it, whatever stands in the row."""
    if isinstance(job.args, list) and isinstance(job.kwargs, dict):
        return storable(job.call)
    return storable(f"{job.task_name}({job.args!r}, {job.kwargs!r})")  # somebody wrote the row by hand


def short_call(job: Job, message: str = "") -> SafeString:
    """Task and arguments in one line, the whole of both as titles; a message in a line below."""
    arguments = call(job).removeprefix(job.task_name)
    line = format_html(
        '<div class="jq-call"><strong title="{}">{}</strong><code title="{}">{}</code></div>',
        job.task_path,
        job.task_name,
        Truncator(arguments).chars(TITLE_LENGTH),
        Truncator(arguments).chars(CALL_LENGTH),
    )
    return format_html('{}<div class="jq-message" title="{}">{}</div>', line, message, message) if message else line


def pretty(value: Any) -> SafeString:
    """A JSON value: a short one in one line, a longer one indented, a long one folded."""
    line = storable(json.dumps(value, ensure_ascii=False, default=repr))
    if len(line) <= ONE_LINE:
        return format_html("<pre>{}</pre>", line)
    text = storable(json.dumps(value, indent=2, ensure_ascii=False, default=repr))
    if len(text) <= FOLD_FROM:
        return format_html("<pre>{}</pre>", text)
    size = _("%d characters") % len(text)
    begin = Truncator(" ".join(text[:500].split())).chars(80)
    if len(text) > CUT_AT:
        text = text[:CUT_AT] + "\n[…]"
    return format_html("<details><summary><code>{}</code> ({})</summary><pre>{}</pre></details>", begin, size, text)


def attempts(job: Job) -> SafeString | str:
    """``2 of 5``: the attempts that count. The title tells of those that do not."""
    text = _("%(tries)d of %(maximum)d") % {"tries": job.tries, "maximum": job.max_attempts}
    if job.attempts == job.tries:
        return text
    title = _(
        "Started %(starts)d times in all: snoozed, interrupted and lost attempts do not count, and a retry "
        "by hand starts anew."
    ) % {"starts": job.attempts}
    return format_html('<abbr title="{}">{}</abbr>', title, text)


def progress(job: Job) -> SafeString | str:
    """How far a running job says it is: a bar where the end is known, ``30 of 120``, and what else it tells."""
    told = job.progress if job.status == Job.Status.RUNNING else None
    if not isinstance(told, dict) or not isinstance(told.get("done"), int | float):
        return ""
    done, total, message = told["done"], told.get("total"), storable(str(told.get("message") or ""))
    if not isinstance(total, int | float) or total <= 0:
        return format_html("{} {}", f"{done:g}", message)
    text = _("%(done)s of %(total)s") % {"done": f"{done:g}", "total": f"{total:g}"}
    return bar(done / total, f"{text} {message}")


def bar(part: float, text: str) -> SafeString:
    """How much of something is done, and beside it the text."""
    percent = f"{min(100.0, max(0.0, 100 * part)):.0f}"
    return format_html('<progress class="jq-progress" max="100" value="{}">{} %</progress> {}', percent, percent, text)


def button(url: str, label: Any, aria_label: str) -> SafeString:
    """A button of a list's own form, which carries the CSRF token, to another address."""
    return format_html(
        '<button type="submit" class="jq-button" formmethod="post" formaction="{}" aria-label="{}">{}</button>',
        url,
        aria_label,
        label,
    )


def as_id(text: str) -> int | None:
    """The id that somebody has typed: ``4711`` or ``#4711``. None for what can be none."""
    digits = text.strip().removeprefix("#")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None
