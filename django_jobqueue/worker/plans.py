"""Plans: how the jobs of one task are run, each by the layers that apply to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..compat import AnyTask
from ..middleware.chain import applies, may_not_apply
from ..models import Job
from ..options import in_force, of_task
from .stages import Plan

Layers = tuple[Any, ...]


class Plans:
    """The plans of one task's jobs. There is one for each set of layers that has applied to any of them.

    Jobs without options of their own are all alike: for them the layers are asked once.
    """

    def __init__(self, task: AnyTask, layers: Layers, make: Callable[[AnyTask, Layers], Plan]) -> None:
        self.task, self.layers, self._make = task, layers, make
        self._optional = tuple(layer for layer in layers if may_not_apply(layer))
        self._names = frozenset(name for layer in self._optional for name in getattr(layer, "options", ()))
        self._made: dict[tuple[bool, ...], Plan] = {}
        self.usual = self._plan(partial(of_task, task))

    def of(self, job: Job) -> Plan:
        """The plan of this job, which brings options along."""
        options = job.options
        if not isinstance(options, dict) or self._names.isdisjoint(options):
            return self.usual
        return self._plan(partial(in_force, job, self.task))

    def _plan(self, option: Callable[[str], Any]) -> Plan:
        answers = tuple([applies(layer, option) for layer in self._optional])
        if (found := self._made.get(answers)) is None:
            left_out = {id(layer) for layer, answer in zip(self._optional, answers, strict=True) if not answer}
            around = tuple(layer for layer in self.layers if id(layer) not in left_out)
            self._made[answers] = found = self._make(self.task, around)
        return found
