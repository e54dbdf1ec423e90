from collections import Counter

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.table import Table

from django_jobqueue.models import Attempt, Job
from shop import demo


class Command(BaseCommand):
    help = "Shows what became of the jobs of the latest demo_enqueue. Fails if one did not end as it should."

    def handle(self, **options):
        if not demo.RUN_FILE.exists():
            raise CommandError("Nothing to report: run demo_enqueue first.")
        jobs = list(demo.jobs_of_latest_run())
        console = Console()
        console.print(summary(jobs))
        console.print(failures(jobs))
        if surprises := list(unexpected(jobs)):
            raise CommandError("\n".join(["The demo did not go as it should.", *surprises]))
        console.print("Every job ended as it should: [bold green]the demo has succeeded[/].")


def summary(jobs: list[Job]) -> Table:
    """A row for each task, a column for each status that occurs."""
    statuses = [status for status in Job.Status if any(job.status == status for job in jobs)]
    table = Table(title="Jobs by task and status", title_justify="left")
    table.add_column("Task")
    for heading in ["Jobs", *(status.label for status in statuses), "Attempts"]:
        table.add_column(str(heading), justify="right")
    for task_name in [*demo.EXPECTED, "Total"]:
        row = [job for job in jobs if task_name in (job.task_name, "Total")]
        counts = Counter(job.status for job in row)
        table.add_row(
            task_name,
            str(len(row)),
            *(str(counts[status] or "") for status in statuses),
            str(sum(job.attempts for job in row)),
            style="bold" if task_name == "Total" else None,
            end_section=task_name == list(demo.EXPECTED)[-1],
        )
    return table


def failures(jobs: list[Job]) -> Table:
    """The failed jobs, each with what its last attempt said."""
    failed = {job.pk: job for job in jobs if job.status == Job.Status.FAILED}
    messages = dict(Attempt.objects.filter(job__in=failed).order_by("number").values_list("job_id", "message"))
    table = Table("Job", "Call", "Attempts", "Error", title="Failed jobs", title_justify="left")
    for job in failed.values():
        table.add_row(str(job.pk), job.call, str(job.attempts), messages.get(job.pk, ""))
    return table


def unexpected(jobs: list[Job]):
    """A sentence for each task and status with another number of jobs than the demo should give."""
    actual = Counter((job.task_name, job.status) for job in jobs)
    expected = Counter({(task, status): n for task, counts in demo.EXPECTED.items() for status, n in counts.items()})
    for task_name, status in sorted(actual | expected):
        if actual[task_name, status] != expected[task_name, status]:
            yield (
                f"{task_name}: {actual[task_name, status]} jobs are {status}, "
                f"but {expected[task_name, status]} should be."
            )
