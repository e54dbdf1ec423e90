"""Settings for the suite against another backend: those of the other tests, with TASKS for the chosen subject."""

from tests.conformance.subjects import JOBQUEUE, chosen
from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as APPS

SUBJECT = chosen()
INSTALLED_APPS = [*(app for app in APPS if app not in JOBQUEUE.apps), *SUBJECT.apps]
TASKS = {"default": SUBJECT.entry(QUEUES=[])}
