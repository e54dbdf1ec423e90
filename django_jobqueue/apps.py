import sys

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate
from django.utils.translation import gettext_lazy as _


class JobQueueConfig(AppConfig):
    name = "django_jobqueue"
    verbose_name = _("Job queue")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from .models import storage

        pre_migrate.connect(storage.make_sequence, sender=self, dispatch_uid="django_jobqueue.sequence")
        post_migrate.connect(storage.set_parameters, sender=self, dispatch_uid="django_jobqueue.parameters")
        from . import checks, compat, discovery  # noqa: F401 - checks and compat register the system checks

        discovery.loaded_with_apps.update(sys.modules)
