"""Tasks that use up their worker."""

import os

from django_jobqueue import task

KEPT = []


@task
def hoard(megabytes):
    """Keeps what it was given."""
    KEPT.append(b"x" * (megabytes * 1_000_000))


@task
def exit_well():
    """Ends its process in a way that looks good from outside."""
    os._exit(0)
