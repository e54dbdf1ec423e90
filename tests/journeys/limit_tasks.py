"""Tasks that run for too long, each in its way. They are imported by the workers that need them."""

import asyncio
import os
import threading
import time

from asgiref.sync import sync_to_async

from django_jobqueue import task

from .tasks import note


@task(takes_context=True, timeout=1.0, max_attempts=2, backoff=3600.0)
def loops(context):
    note(context, "start")
    try:
        try:
            while True:
                pass
        finally:
            note(context, "inner")
    finally:
        note(context, "outer")


@task(takes_context=True, timeout=1.0, max_attempts=2, backoff=3600.0)
async def sleeps_async(context):
    note(context, "start")
    try:
        await asyncio.sleep(300)
    finally:
        note(context, "outer")


@task(takes_context=True, timeout=1.0)
def stuck(context):
    note(context, "start")
    time.sleep(300)


@task(takes_context=True, timeout=1.0)
def swallows(context):
    note(context, "start")
    while True:
        try:
            while True:
                pass
        except BaseException:
            note(context, "swallowed")


@task(takes_context=True, timeout=1.0)
async def blocks_the_loop(context):
    note(context, "start")
    time.sleep(300)


@task(takes_context=True, max_attempts=9)
def stays(context):
    note(context, "start")
    time.sleep(300)


@task(takes_context=True, max_attempts=9)
async def stays_in_own_thread(context):
    note(context, "start")
    await sync_to_async(time.sleep)(300)


@task(takes_context=True)
def neighbour(context, flag):
    """Long, and a good citizen: it ends when the file is there."""
    note(context, "start")
    while not os.path.exists(flag):
        time.sleep(0.02)
    note(context, "end")


@task(takes_context=True, max_attempts=9)
def spins(context):
    note(context, "start")
    try:
        while True:
            pass
    finally:
        note(context, "outer")


@task(takes_context=True, max_attempts=9)
async def waits(context):
    note(context, "start")
    try:
        await asyncio.sleep(300)
    finally:
        note(context, "outer")


@task
def live_slots():
    time.sleep(0.05)
    return sum(thread.name.startswith("jobqueue-slot-") for thread in threading.enumerate())
