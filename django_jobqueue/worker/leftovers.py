"""Leftovers: transactions that a job or a receiver began in one of the worker's threads and did not end."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from ..logs import get_logger
from ..middleware.database_connections import of_this_thread

logger = get_logger(__name__)


def roll_back_leftovers(culprit: object) -> None:
    """Discard the transactions that are open in this thread: what runs next here must not write into them.

    It never raises: what the job came to is settled already.
    """
    for connection in of_this_thread():
        try:
            if connection.in_atomic_block or not _is_in_autocommit(connection):
                logger.error("%s left a transaction open on %r; it is rolled back.", culprit, connection.alias)
                _discard(connection)
        except Exception:
            logger.exception("The connection %r that %s left behind cannot be closed.", connection.alias, culprit)


def _is_in_autocommit(connection: BaseDatabaseWrapper) -> bool:
    """As its settings want it, if it is open at all."""
    return connection.connection is None or connection.autocommit == connection.settings_dict["AUTOCOMMIT"]


def _discard(connection: BaseDatabaseWrapper) -> None:
    """Close a connection together with the transaction that it is in; the next use opens it afresh."""
    connection.savepoint_ids, connection.atomic_blocks, connection.run_on_commit = [], [], []
    connection.in_atomic_block = connection.needs_rollback = connection.closed_in_transaction = False
    connection.close()
