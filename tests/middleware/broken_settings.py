"""The tests' settings with a layer whose life cannot begin."""

from tests.settings import *  # noqa: F403

JOBQUEUE_MIDDLEWARE = ["tests.middleware.test_lifespan.CannotBegin"]
