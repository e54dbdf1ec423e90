"""Rows for the tests: what a task did, and how often; and the table in the example of an archive."""

from django.db import models


class Effect(models.Model):
    name = models.CharField(max_length=100)
    value = models.JSONField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class OldJob(models.Model):
    number = models.BigIntegerField(primary_key=True)
    task = models.CharField(max_length=255)
    status = models.CharField(max_length=10)
    finished_at = models.DateTimeField()
    outcomes = models.JSONField()

    def __str__(self) -> str:
        return f"{self.task} #{self.number}"
