"""What tests of workers may use."""

import pytest
from django.db import connections


@pytest.fixture
def elsewhere(queue_db, monkeypatch):
    """Change the settings of the database for all connections that are made from now on."""
    saved = dict(connections.settings["default"])

    def change(**values):
        connections.close_all()
        connections.settings["default"].update(values)

    yield change
    connections.close_all()
    connections.settings["default"].clear()
    connections.settings["default"].update(saved)
