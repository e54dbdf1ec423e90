from django.db import migrations

from ._operations import OnDatabase

# A job's row is written three times within seconds, and no new version of it can do without new index entries. By
# default PostgreSQL begins to clean up when a fifth of the table is dead: with a million finished jobs that are two
# hundred thousand dead rows among the few that are waiting. So it begins sooner and does not pause, and leaves room on
# each page for the next versions of its rows. Attempts are only ever added.
JOB = """
ALTER TABLE django_jobqueue_job SET (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_analyze_threshold = 1000
)
"""
JOB_AS_USUAL = """
ALTER TABLE django_jobqueue_job RESET (
    fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay,
    autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor, autovacuum_analyze_threshold
)
"""
ATTEMPT = "ALTER TABLE django_jobqueue_attempt SET (autovacuum_vacuum_insert_scale_factor = 0.05)"
ATTEMPT_AS_USUAL = "ALTER TABLE django_jobqueue_attempt RESET (autovacuum_vacuum_insert_scale_factor)"


class Migration(migrations.Migration):

    dependencies = [("django_jobqueue", "0001_initial")]

    operations = [
        OnDatabase("postgresql", JOB, JOB_AS_USUAL),
        OnDatabase("postgresql", ATTEMPT, ATTEMPT_AS_USUAL),
    ]
