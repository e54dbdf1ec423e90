"""OPTIONS: defaults, and errors that name the key."""

from datetime import timedelta

import pytest

from django_jobqueue.backend import JobQueueBackend
from django_jobqueue.backoff import DEFAULT_BACKOFF, Fixed
from django_jobqueue.compat import Task
from django_jobqueue.conf import Options, backend_aliases, config_of, databases, is_count, middleware_paths, problems_of

OURS = "django_jobqueue.backend.JobQueueBackend"


def test_defaults():
    assert (
        Options.read({})
        == Options()
        == Options(
            database="default",
            lease=30.0,
            max_attempts=1,
            backoff=DEFAULT_BACKOFF,
            timeout=None,
            retention=7 * 86_400,
            conn_max_age=60.0,
            async_threads=8,
        )
    )


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), (None, None), (timedelta(minutes=5), 300.0)])
def test_the_age_of_connections(value, seconds):
    assert Options.read({"CONN_MAX_AGE": value}).conn_max_age == seconds


def test_all_keys():
    options = Options.read(
        {
            "DATABASE": "default",
            "LEASE": timedelta(minutes=1),
            "MAX_ATTEMPTS": 5,
            "BACKOFF": Fixed(3),
            "TIMEOUT": 90,
            "RETENTION": timedelta(days=1),
        }
    )
    assert options == Options("default", 60.0, 5, Fixed(3), 90.0, 86_400.0)
    assert Options.read({"TIMEOUT": None, "RETENTION": None}).retention is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CONN_MAX_AGE", -1),
        ("CONN_MAX_AGE", "60"),
        ("CONN_MAX_AGE", False),
        ("ASYNC_THREADS", 0),
        ("ASYNC_THREADS", 2.5),
        ("LEASE", 0),
        ("LEASE", -1),
        ("LEASE", "30"),
        ("LEASE", None),
        ("LEASE", True),
        ("LEASE", timedelta(0)),
        ("TIMEOUT", 0),
        ("TIMEOUT", "soon"),
        ("RETENTION", -5),
        ("RETENTION", False),
        ("MAX_ATTEMPTS", 0),
        ("MAX_ATTEMPTS", 1.5),
        ("MAX_ATTEMPTS", True),
        ("MAX_ATTEMPTS", 32_768),
        ("MAX_ATTEMPTS", None),
        ("BACKOFF", -1),
        ("BACKOFF", "exponential"),
        ("DATABASE", "missing"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_key(key, value):
    with pytest.raises(ValueError) as error:
        Options.read({key: value})
    message = str(error.value)
    assert f"OPTIONS[{key!r}]" in message
    assert repr(value) in message


def test_an_unknown_key_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no key 'LEASES'; the keys are DATABASE, LEASE, MAX_ATTEMPTS"):
        Options.read({"LEASES": 1})


def test_keys_are_in_capitals():
    with pytest.raises(ValueError, match="no key 'lease'"):
        Options.read({"lease": 1})


@pytest.mark.parametrize("value", [None, ["LEASE"], "LEASE"])
def test_options_that_are_no_dict(value):
    assert list(problems_of(value)) == [f"OPTIONS is {value!r}, but must be a dict."]
    with pytest.raises(ValueError, match="must be a dict"):
        Options.read(value)


def test_all_problems_are_found_at_once():
    assert len(list(problems_of({"LEASE": 0, "TIMEOUT": 0, "MAX_ATTEMPTS": 0, "x": 1}))) == 4


@pytest.mark.parametrize(("value", "answer"), [(1, True), (32_767, True), (0, False), (1.0, False), (True, False)])
def test_counts(value, answer):
    assert is_count(value) is answer


class Own(JobQueueBackend):
    """A project's own, which says where its jobs are."""

    def __init__(self, alias, params):
        super().__init__(alias, params | {"OPTIONS": {"LEASE": 7} | params.get("OPTIONS", {})})


def test_entries_of_our_backend_and_its_subclasses_count(settings):
    settings.TASKS = {
        "default": {"BACKEND": f"{Task.__module__.split('.base')[0]}.backends.dummy.DummyBackend"},
        "jobs": {"BACKEND": OURS, "OPTIONS": {"LEASE": 5}},
        "more": {"BACKEND": OURS},
        "own": {"BACKEND": "tests.test_conf.Own"},
        "gone": {"BACKEND": "no.such.Backend"},
        "broken": {"BACKEND": "tests.journeys.broken_module.Backend"},
        "odd": None,
        "odder": {"BACKEND": 3},
        "oddest": {},
    }
    assert backend_aliases() == ["jobs", "more", "own"]
    assert [config_of(alias).lease for alias in backend_aliases()] == [5, 30, 7]
    assert databases() == ["default"]


def test_the_projects_middleware_replaces_the_default(settings):
    settings.JOBQUEUE_MIDDLEWARE = ("a.B",)
    assert middleware_paths() == ("a.B",)
    settings.JOBQUEUE_MIDDLEWARE = []
    assert middleware_paths() == ()
