from django.db import models


class Order(models.Model):
    customer = models.CharField(max_length=100)
    lines = models.IntegerField(default=0)

    def __str__(self):
        return self.customer


class Line(models.Model):
    order = models.ForeignKey(Order, models.CASCADE)
    product = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return self.product
