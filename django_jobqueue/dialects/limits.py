"""Limits: the locks of keys, and what is decided under them, in portable SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

from django.db.models import F
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan

from ..keys import Slots
from ..models import Job, Limit
from ..models.limit import USED
from .admission import Admission
from .draw import Draw
from .records import Admitted, Drawn, Lane, Terms
from .session import Session, T
from .tables import FOR_A_SLOT, JOB

# From one key to the next in the index, past all the jobs of each.
KEYS = f"""
WITH RECURSIVE waiting AS (
    SELECT MIN(concurrency_key) AS name FROM {JOB} WHERE {FOR_A_SLOT} AND concurrency_key > %s
    UNION ALL
    SELECT (SELECT MIN(concurrency_key) FROM {JOB} WHERE {FOR_A_SLOT} AND concurrency_key > waiting.name)
    FROM waiting WHERE waiting.name IS NOT NULL
)
SELECT name FROM waiting WHERE name IS NOT NULL LIMIT %s
"""
HEAD = "id concurrency_key task_path options queue_name priority".split()
HEADS = f"""
SELECT * FROM (
    SELECT {", ".join(HEAD)} FROM {JOB} WHERE {FOR_A_SLOT} AND concurrency_key = %s {{known}}
    ORDER BY priority DESC, id LIMIT %s
) AS head{{number}}
"""


class Limits(Session):
    """Who admits jobs, or lets them start, locks the rows of their keys first."""

    #: For how many keys jobs are admitted in one transaction.
    keys_at_once: ClassVar[int] = 250

    # -- locks -----------------------------------------------------------------------------------

    def lock_limits(self, names: Sequence[str]) -> dict[str, bool]:
        """Lock those rows that there are, in one order, until the transaction ends; of each by its name: has it been
        noted of late that it is used?
        """
        rows = Limit.objects.using(self.using).filter(pk__in=names).order_by("pk")
        noted = rows.annotate(is_noted=GreaterThan(F("used_at"), Now() - USED))
        return dict(noted.select_for_update().values_list("pk", "is_noted"))

    def read_what_is_committed(self) -> None:
        """From now on, at the beginning of a transaction: each statement sees what was committed before it began,
        whatever else the project has chosen for its transactions. Where that cannot be, ``newest`` helps.
        """

    def lock(self, names: Sequence[str]) -> None:
        """These limits are ours until the transaction ends."""
        there = self.lock_limits(names)
        if missing := set(names).difference(there):
            new = [Limit(key=name, used_at=Now()) for name in sorted(missing)]
            Limit.objects.using(self.using).bulk_create(new, ignore_conflicts=True)
            there = self.lock_limits(names)
        if old := [name for name, is_noted in there.items() if not is_noted]:
            self.note_used(old)

    def note_used(self, names: Sequence[str]) -> None:
        """So that these limits are not forgotten."""
        Limit.objects.using(self.using).filter(pk__in=names).update(used_at=Now())

    def under_lock(self, names: Sequence[str], decide: Callable[[], T]) -> T:
        """``decide()`` in a transaction that has these limits to itself, and sees what others have made of them."""
        ours = not self.connection.in_atomic_block

        def locked() -> T:
            if ours:
                self.read_what_is_committed()
            self.lock(names)
            # Another statement: that of the lock had its time before it had to wait.
            return decide()

        return self.transact(locked)

    # -- concurrency keys ------------------------------------------------------------------------

    def admit(
        self, keys: Sequence[str], rules: Mapping[str, Slots], unknown: Collection[str], floors: Mapping[Lane, int]
    ) -> Admitted:
        """Let those come in line for whom there are slots, of the jobs that wait for slots of these keys.

        ``rules`` say for each task how many slots the keys of its jobs have; jobs of tasks that are ``unknown`` are
        left where they are. ``floors`` are the places in lines from which claims look on.
        """

        def let_in() -> Admitted:
            return Admission(self, keys, rules, unknown, floors).carry_out()

        return self.under_lock(slot_names(keys), let_in)

    def waiting_keys(self, behind: str, limit: int) -> list[str]:
        """The keys, in order, whose slots jobs wait for; from the one behind this one on."""
        return [name for (name,) in self._rows(KEYS, [behind, limit])]

    def heads(self, numbers: Mapping[str, int], unknown: Collection[str] = ()) -> list[Job]:
        """Of the jobs that wait for slots of each key, so many of the first, with no more columns than ``HEAD``."""
        known = f"AND task_path NOT IN ({', '.join(['%s'] * len(unknown))})" if unknown else ""
        sql = "UNION ALL".join(HEADS.format(number=number, known=known) for number in range(len(numbers)))
        params = [value for key, number in numbers.items() for value in (key, *unknown, number)]
        return [Job.of(zip(HEAD, row, strict=True), self.using) for row in self._rows(sql, params)]

    # -- rates -----------------------------------------------------------------------------------

    def draw(self, key: str, job_id: int, fence: int | None, terms: Terms) -> Drawn:
        """As many starts of the key for this attempt of the job as its terms want, or one, if its rate allows it."""
        return self.under_lock([key], Draw(self.using, key, job_id, fence, terms).carry_out)


def slot_names(keys: Sequence[str]) -> list[str]:
    """The names of the rows among the limits that stand for the slots of these concurrency keys."""
    return [f"concurrency {key}" for key in keys]
