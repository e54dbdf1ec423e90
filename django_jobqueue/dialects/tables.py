"""The names of the tables, and conditions on them that several statements share."""

from __future__ import annotations

from ..models import Attempt, Dependency, Job, Limit, Pause, Permit, Queue, UniqueKey

JOB = Job._meta.db_table
ATTEMPT = Attempt._meta.db_table
QUEUE = Queue._meta.db_table
DEPENDENCY = Dependency._meta.db_table
UNIQUE_KEY = UniqueKey._meta.db_table
LIMIT = Limit._meta.db_table
PAUSE = Pause._meta.db_table
PERMIT = Permit._meta.db_table

#: The condition of ``waiting_for_slots``.
FOR_A_SLOT = "status = 'WAITING' AND waiting_for = 0 AND concurrency_key IS NOT NULL"
