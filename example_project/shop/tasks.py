"""The shop's background work: one task for each way in which a job can go."""

import asyncio
import time
from datetime import timedelta
from io import BytesIO

from django.core.files.base import ContentFile
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone
from PIL import Image

from django_jobqueue import cron, task
from django_jobqueue.middleware.concurrency import Concurrency

from . import payment
from .models import Order, Product


@task(queue_name="payments", priority=50, max_attempts=3, give_up_on=(payment.CardDeclined,))
def charge_card(order_id):
    """Fails for good if the card is declined; whatever else goes wrong is tried again."""
    order = Order.objects.select_related("product").get(pk=order_id)
    try:
        payment.charge(order.card, order.product.price, idempotency_key=f"order-{order.pk}")
    except payment.CardDeclined:
        order.enqueue(remind_customer.using(run_after=timedelta(seconds=3)))
        raise
    with transaction.atomic():  # paid, and the receipt on its way: both or neither
        order.paid_at = timezone.now()
        order.save(update_fields=["paid_at"])
        order.enqueue(send_receipt)


@task(queue_name="mail")
def send_receipt(order_id):
    """The job that every shop has."""
    order = Order.objects.select_related("product").get(pk=order_id)
    send_mail(
        f"Your receipt for order {order.pk}",
        f"Dear {order.customer},\n\nthank you for buying {order.product}. We received {order.product.price} EUR.\n",
        None,
        [order.email],
    )


@task(queue_name="mail", priority=-10)
def remind_customer(order_id):
    """Scheduled for later with ``run_after``. By then the customer may have paid."""
    order = Order.objects.get(pk=order_id)
    if order.paid_at is None:
        send_mail(
            f"Your order {order.pk} is waiting",
            f"Dear {order.customer},\n\nyour card was declined. Would you like to pay another way?\n",
            None,
            [order.email],
        )


@task(takes_context=True, max_attempts=3, retry_on=(ConnectionError,), backoff=1)
def call_webhook(context, order_id):
    """Tells the courier, who is known to answer only the third call: fails twice, then succeeds."""
    if context.attempt < 3:
        raise ConnectionError(f"courier.example did not answer (call {context.attempt})")
    return {"order": order_id, "pick_up": "today"}


@task(queue_name="media", middleware=[Concurrency], in_order=True, concurrency_key="product-{product_id}")
def make_thumbnail(product_id, size=320):
    """Work for the processor and the file system. Of one product one at a time: the last one's picture stays."""
    product = Product.objects.get(pk=product_id)
    with product.image.open() as file, Image.open(file) as image:
        image.thumbnail((size, size))
        thumbnail = BytesIO()
        image.save(thumbnail, "JPEG", quality=85)
    product.thumbnail.save(f"{product.pk}.jpg", ContentFile(thumbnail.getvalue()))
    return {"width": image.width, "height": image.height}


@task(schedule=cron("0 6 * * MON-FRI", tz="Europe/Berlin", overlap="skip"))
def sales_report():
    """A slow one, for each working day's morning: each step stands for a query over a year of orders."""
    report = {}
    for product in Product.objects.annotate(sold=Count("order", filter=Q(order__paid_at__isnull=False))):
        time.sleep(0.6)
        report[product.name] = {"sold": product.sold, "revenue": str(product.sold * product.price)}
    return report


@task
async def fetch_exchange_rates():
    """An async task: three slow answers in the time of one."""
    rates = {"GBP": 0.87, "JPY": 171.20, "USD": 1.17}
    return dict(await asyncio.gather(*(_fetch_rate(currency, rate) for currency, rate in rates.items())))


async def _fetch_rate(currency, rate):
    await asyncio.sleep(0.5)
    return currency, rate
