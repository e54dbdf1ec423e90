"""What each built-in layer costs a no-op job to which nothing of it applies, in CPU time and without a database.

``python -m benchmarks.middleware_costs`` prints microseconds per job: the median of rounds that are done in turn, each
row in a process of its own, beside a row without any layer. Counted is what runs in the slot thread and, for
``job_finished``, in the announcer; what the database has to do for a job is not.
"""

import argparse
import os
import subprocess
import sys
import time
from statistics import median

HERE = "django_jobqueue.middleware"
PRODUCTION = [
    f"{HERE}.database_connections.DatabaseConnections",
    f"{HERE}.opentelemetry.OpenTelemetry",
    f"{HERE}.prometheus.Prometheus",
    f"{HERE}.slow_jobs.SlowJobs",
    f"{HERE}.error_context.ErrorContext",
    f"{HERE}.log_context.LogContext",
    f"{HERE}.age_limit.AgeLimit",
    f"{HERE}.callbacks.Callbacks",
    f"{HERE}.concurrency.Concurrency",
    f"{HERE}.rate_limit.RateLimit",
    f"{HERE}.shutdown_notifications.ShutdownNotifications",
    f"{HERE}.locale.Locale",
    f"{HERE}.result_policy.Results",
]
OTEL = [PRODUCTION[1]]
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
#: Layers, the sampled part of the traces (None: no SDK), and whether jobs carry a trace.
ROWS = {
    "none": ([], None, False),
    **{path.rpartition(".")[2]: ([path], None, False) for path in PRODUCTION},
    "OpenTelemetry, carried": (OTEL, None, True),
    "OpenTelemetry, 1 %": (OTEL, 0.01, False),
    "OpenTelemetry, unsampled parent": (OTEL, 0.01, True),
    "OpenTelemetry, 100 %": (OTEL, 1.0, False),
    "all": (PRODUCTION, None, False),
    "all, unsampled parent": (PRODUCTION, 0.01, True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rows", nargs="*", choices=ROWS)
    parser.add_argument("--child", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.child, options.jobs)
        return
    rows = ["none", *(row for row in options.rows or ROWS if row != "none")]
    children = {row: start(row, options.jobs) for row in rows}
    figures = {row: [] for row in rows}
    for _ in range(options.rounds):
        for row, child in children.items():
            child.stdin.write("go\n")
            child.stdin.flush()
            figures[row].append(float(child.stdout.readline()))
    for child in children.values():
        child.communicate()
    least = median(figures["none"])
    print(f"{'µs per job':<34}{'total':>8}{'costs':>8}")
    for row, found in figures.items():
        print(f"{row:<34}{median(found):>8.1f}{median(found) - least:>8.1f}")


def start(row, jobs):
    command = [sys.executable, "-m", "benchmarks.middleware_costs", "--child", row, "--jobs", str(jobs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(row, jobs):
    layers, ratio, carried = ROWS[row]
    if ratio is not None:
        install_sdk(ratio)
    made, lifespan = make(layers)
    options = {"trace_context": {"traceparent": UNSAMPLED}} if carried else None
    with lifespan:
        made(jobs, options)  # to warm up
        for _ in sys.stdin:
            print(made(jobs, options), flush=True)


def install_sdk(ratio):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    class Nowhere(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio))
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)


def make(layers):
    """A function that runs so many jobs with these options and says how many microseconds each has taken; and the life
    of the thread that it is to be called in.
    """
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.contenttypes", "django_jobqueue"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.devnull}},
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "root": {"level": "WARNING"},
            "loggers": {"django": {"level": "WARNING"}, "django_jobqueue": {"level": "WARNING"}},
        },
        TASKS={"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": []}},
        JOBQUEUE_MIDDLEWARE=layers,
    )
    django.setup()

    from django_jobqueue import task
    from django_jobqueue.compat import task_backends
    from django_jobqueue.lifecycle import Run
    from django_jobqueue.middleware.chain import project_layers
    from django_jobqueue.middleware.database_connections import begin_without
    from django_jobqueue.middleware.lifespan import Lifespan
    from django_jobqueue.models import Job
    from django_jobqueue.models.job import defaults
    from django_jobqueue.worker.announcer import Announcer
    from django_jobqueue.worker.execution import Execution

    sys.modules["benchmarks.middleware_costs"] = sys.modules[__name__]
    globals()["noop"] = noop = task(_noop)
    from django.utils import timezone

    execution = Execution(Boss(), task_backends["default"])
    announcer = Announcer(execution)
    begin_without()

    def claimed(number, options):
        job = Job.of(defaults().items(), using="default")
        job.id, job.task_path, job.attempts, job.fence, job.status = number, noop.module_path, 1, 7, "RUNNING"
        job.enqueued_at = job.started_at = timezone.now()
        job.args, job.kwargs, job.options = [number], {}, options and dict(options)
        return Run(job, 1)

    def measure(jobs, options):
        runs = [claimed(number, options) for number in range(1, jobs + 1)]
        began = time.thread_time()
        for run in runs:
            execution.run(run, noop)
        ended = [run.outcome and run.outcome.status for run in runs]  # the announcer forgets it
        announcer.put([(run, "SUCCESSFUL") for run in runs])
        announcer.close()
        announcer.run()
        took = time.thread_time() - began
        assert set(ended) == {"SUCCESSFUL"}, set(ended)
        return took / jobs * 1e6

    return measure, Lifespan(project_layers(), "thread_lifespan", execution.worker)


def _noop(n):
    return None


_noop.__name__ = _noop.__qualname__ = "noop"
_noop.__module__ = "benchmarks.middleware_costs"


class Boss:
    id, name = 1, "benchmark:1"

    def stop(self):
        pass


if __name__ == "__main__":
    main()
