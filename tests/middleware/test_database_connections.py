"""DatabaseConnections stands in the lists of projects; the worker looks after connections itself."""

import asyncio

from django_jobqueue.conf import DEFAULT_MIDDLEWARE, middleware_paths
from django_jobqueue.middleware.chain import compose
from django_jobqueue.middleware.database_connections import DatabaseConnections

from ..tasks import async_add
from ..worker.runs import run_async


def test_it_is_the_default(settings):
    assert DEFAULT_MIDDLEWARE == ("django_jobqueue.middleware.database_connections.DatabaseConnections",)
    if hasattr(settings, "JOBQUEUE_MIDDLEWARE"):
        del settings.JOBQUEUE_MIDDLEWARE
    assert middleware_paths() == DEFAULT_MIDDLEWARE


def test_it_costs_a_job_nothing():
    def handler(context):
        return 42

    assert compose([DatabaseConnections()], handler, is_async=False) is handler


def test_an_async_job_passes_through():
    async def call_next():
        return 42

    assert asyncio.run(DatabaseConnections().aprocess_job(None, call_next)) == 42
    assert run_async(async_add, 1, 2).result == 3
