"""The jobs of the orm cell for queues whose jobs are coroutines: plain functions run in asyncio's threads."""

import asyncio

import common

if common.ORM:
    common.django_setup()
    from shop import work


async def orm(n):
    await asyncio.to_thread(work.orm, n)


async def aorm(n):
    await work.aorm(n)
