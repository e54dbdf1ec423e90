"""Coroutine tasks, in a module of their own: a backend that does not take them refuses at import."""

from __future__ import annotations

import asyncio

from asgiref.sync import sync_to_async

from . import tasks
from .framework import task


@task
async def add(a, b=0):
    await asyncio.sleep(0)
    tasks.CALLS.append((a, b))
    return a + b


@task
async def throw(kind):
    tasks.CALLS.append(kind)
    await asyncio.sleep(0)
    raise tasks.ERRORS[kind]()


@task
async def query():
    return await sync_to_async(tasks.query.func)()


@task(takes_context=True)
async def describe(context, word):
    await asyncio.sleep(0)
    return tasks.describe.func(context, word)


@task
async def enqueue_another(name):
    result = await tasks.record.aenqueue(name)
    return result.id
