"""What Django's task framework expects of a backend, as tests that take any backend.

A backend under test is described by a ``Subject`` (``subjects.py``): its path, its options, and how to let a worker
run what is due. The suite runs against ours by default, with the settings of the other tests. Against another one:

    CONFORMANCE_BACKEND=immediate pytest tests/conformance --ds=tests.conformance.settings
    CONFORMANCE_BACKEND=django_tasks_db pytest tests/conformance --ds=tests.conformance.settings
    CONFORMANCE_BACKEND=shop.tests.SUBJECT pytest tests/conformance --ds=tests.conformance.settings

The last form is the dotted path of a ``Subject`` anywhere. A test that needs what the backend does not declare is
skipped and says so; for our own backend that is a failure.
"""
