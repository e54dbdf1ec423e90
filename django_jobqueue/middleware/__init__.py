"""Middlewares: layers around enqueueing and running. They return and raise; they write nothing of the job."""

from .base import Middleware
from .context import JobContext, current_job

__all__ = ["JobContext", "Middleware", "current_job"]
