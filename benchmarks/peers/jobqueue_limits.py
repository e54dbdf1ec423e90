"""No-ops under limits that never bite, and one that does."""

from django_jobqueue import task

#: So many keys, and slots of each.
KEYS, SLOTS = 1000, 4


@task(concurrency=2000, concurrency_key="wide")
def wide(n):
    """There are more slots than jobs that a worker holds at once."""


@task(concurrency=SLOTS, concurrency_key=lambda n: f"key-{n % KEYS}")
def keys(n):
    """One job after another is of another key."""


@task(rate_limit="999999/s")
def rate(n):
    """Asks the database, which always says yes."""


@task(concurrency=1, concurrency_key="full")
def single(n):
    """For jobs that wait."""


TASKS = {"wide": wide, "keys": keys, "rate": rate}
