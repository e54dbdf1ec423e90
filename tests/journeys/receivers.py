"""Receivers of signals that do what receivers should not. Which one, the environment says."""

import os

from django.db import transaction
from django.dispatch import receiver

from django_jobqueue.compat import task_finished, task_started
from tests.models import Effect

WAYS = os.environ["JOURNEY_RECEIVERS"].split()


@receiver(task_started)
@receiver(task_finished)
def misbehave(signal, task_result, **kwargs):
    when = "started" if signal is task_started else "finished"
    if f"raise-{when}" in WAYS:
        raise RuntimeError("a receiver's own mistake")
    if f"exit-{when}" in WAYS:
        raise SystemExit("a receiver wants to leave")
    if f"leave-transaction-{when}" in WAYS:
        transaction.atomic().__enter__()
        Effect.objects.create(name="of the receiver")
