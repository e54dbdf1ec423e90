"""PostgreSQL."""

from .dialect import PostgreSQL

__all__ = ["PostgreSQL"]
