from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models, transaction

if TYPE_CHECKING:
    from django_jobqueue.compat import Task


class Product(models.Model):
    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    image = models.ImageField(upload_to="products")
    thumbnail = models.ImageField(upload_to="thumbnails", blank=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    product = models.ForeignKey(Product, models.PROTECT)
    customer = models.CharField(max_length=100)
    email = models.EmailField()
    card = models.CharField(max_length=50, help_text="The payment provider's name for the customer's card.")
    is_express = models.BooleanField("express", default=False, help_text="The courier is told at once.")
    placed_at = models.DateTimeField(auto_now_add=True)
    paid_at = models.DateTimeField(null=True, blank=True)
    # Finished jobs are pruned after a while. Without a constraint that needs no look at the orders.
    jobs = models.ManyToManyField("django_jobqueue.Job", db_constraint=False, editable=False)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"Order {self.pk}"

    @transaction.atomic
    def enqueue(self, task: Task) -> None:
        """Enqueue the task for this order, and remember the job, so that the order's page can show it."""
        self.jobs.add(int(task.enqueue(self.pk).id))
