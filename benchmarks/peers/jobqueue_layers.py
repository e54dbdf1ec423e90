"""Layers around our jobs, to measure what they cost."""

from django_jobqueue.middleware import Middleware


class Passing(Middleware):
    """The least that a layer around a sync job can do."""

    def process_job(self, context, call_next):
        return call_next()


class Hookless(Middleware):
    """Has no hook at all."""
