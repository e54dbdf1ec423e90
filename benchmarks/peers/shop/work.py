"""What jobs do with the tables: one SELECT; or a SELECT, an INSERT and an UPDATE. Import it after ``django_setup``."""

from django.db.models import F

from .models import Line, Order

ORDERS = 1000


def fill():
    Order.objects.bulk_create(Order(customer=f"customer {number}") for number in range(ORDERS))


def select(n):
    Order.objects.get(pk=n % ORDERS + 1)


async def aselect(n):
    await Order.objects.aget(pk=n % ORDERS + 1)


def orm(n):
    order = Order.objects.get(pk=n % ORDERS + 1)
    Line.objects.create(order=order, product=f"product {n}")
    Order.objects.filter(pk=order.pk).update(lines=F("lines") + 1)


async def aorm(n):
    order = await Order.objects.aget(pk=n % ORDERS + 1)
    await Line.objects.acreate(order=order, product=f"product {n}")
    await Order.objects.filter(pk=order.pk).aupdate(lines=F("lines") + 1)
