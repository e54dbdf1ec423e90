"""A row for the tasks of the tests to write, so that a test sees what a task did, and how often."""

from django.db import models


class Effect(models.Model):
    name = models.CharField(max_length=100)
    value = models.JSONField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"
