"""What the adapters share: the settings of the measure, what the tasks do, Django."""

import copy
import os
import time
from urllib.parse import urlsplit

#: The database of the measure: postgresql://…, mysql://… or sqlite:///….
URL = os.environ.get("BENCHMARK_URL", "postgresql:///postgres")
#: Worker processes, for a queue that starts them itself.
PROCESSES = int(os.environ.get("BENCHMARK_PROCESSES", "1"))
#: Coroutines that may run at once; 0 is the adapter's choice.
SLOTS = int(os.environ.get("BENCHMARK_SLOTS", "0"))
#: How many layers of which kind are around each job of ours, ``5 Passing`` say, or ``limits``: those that limit, and
#: the tasks that have limits; empty: only the default ones.
LAYERS = os.environ.get("BENCHMARK_LAYERS", "")
#: Where the measure keeps its files.
FOLDER = os.environ.get("BENCHMARK_FOLDER", ".")
#: A project's settings: ``as-installed``, ``production`` or ``quiet``.
SETTINGS = os.environ.get("BENCHMARK_SETTINGS", "as-installed")
#: CONN_MAX_AGE in seconds; empty: not set, as in a fresh project.
AGE = os.environ.get("BENCHMARK_AGE", "")
#: Do jobs use Django's ORM? So that peers which know nothing of Django set it up.
ORM = bool(os.environ.get("BENCHMARK_ORM"))
#: Seconds that a receiver of Django's ``task_finished`` sleeps; empty: there is none.
RECEIVER = os.environ.get("BENCHMARK_RECEIVER", "")
CHUNK = 1000  # jobs of one bulk call
BURN = 0.005  # seconds of CPU time
SLEEP = 0.1

#: What Django's project template installs, and needs for it.
FRESH_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
FRESH_TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
}
QUIET = {"version": 1, "disable_existing_loggers": False, "loggers": {"django": {"level": "WARNING"}}}


def stamp_now(n):
    """What the task of the latency measure does: write down which job it is and what time it is."""
    now = time.time()
    with open(os.environ["BENCHMARK_STAMPS"], "a") as file:
        file.write(f"{n} {now!r}\n")


def read_stamps():
    """When each job began, by its number."""
    try:
        with open(os.environ["BENCHMARK_STAMPS"]) as file:
            return {int(n): float(moment) for n, moment in map(str.split, file)}
    except FileNotFoundError:
        return {}


def burn(seconds=BURN):
    """Use the CPU, and hold the interpreter's lock as Python code does."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def fail(n):
    """What the tasks of the failing cell do: an error of the kind that user code has, some calls deep."""
    return _fail_deeper(n, 5)


def _fail_deeper(n, depth):
    if depth:
        return _fail_deeper(n, depth - 1)
    raise ValueError(f"no such order: {n}")


def chunks(values):
    return [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]


def database():
    """The entry in DATABASES as a fresh project has it: where the database is, and no more."""
    url = urlsplit(URL)
    if url.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.path, "OPTIONS": SQLITE_OPTIONS}
    if url.scheme == "mysql":
        pretend_mysqlclient()
    where = {"HOST": url.hostname, "PORT": url.port, "USER": url.username, "PASSWORD": url.password}
    age = {"CONN_MAX_AGE": int(AGE)} if AGE else {}
    return {
        "ENGINE": f"django.db.backends.{url.scheme}",
        "NAME": url.path[1:],
        **age,
        **{key: value for key, value in where.items() if value},
    }


def pretend_mysqlclient():
    """Let PyMySQL stand in for mysqlclient, which would need a C compiler."""
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)  # Django asks for mysqlclient's version
    pymysql.install_as_MySQLdb()


def django_setup(*apps, **settings):
    """Django as a fresh project has it, with what the measure's settings add."""
    import django
    from django.conf import settings as django_settings

    django_settings.configure(
        SECRET_KEY="benchmark",
        INSTALLED_APPS=[*FRESH_APPS, "shop", *apps],
        TEMPLATES=FRESH_TEMPLATES,
        DATABASES={"default": database()},
        **logging_settings(),
        **settings,
    )
    django.setup()


def logging_settings():
    """LOGGING, where the measure has one."""
    if SETTINGS == "quiet":
        return {"LOGGING": QUIET}
    if SETTINGS == "production":
        import production  # the documented one

        logging = copy.deepcopy(production.LOGGING)
        logging["handlers"]["file"]["filename"] = f"{FOLDER}/project.log"
        return {"LOGGING": logging}
    return {}


def django_command(*args):
    from django.core.management import call_command

    call_command(*args)


def migrate():
    django_command("migrate", "-v0", "--run-syncdb")
    if ORM:
        from shop import work

        work.fill()


def until_signal(main):
    """Run the coroutine function ``main(stop)``; SIGTERM sets ``stop``."""
    import asyncio
    import signal

    async def run():
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await main(stop)

    asyncio.run(run())
