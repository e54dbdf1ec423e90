"""What the demo puts into the shop, and what should come of it."""

import json
from decimal import Decimal
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files import File
from django.db.models import Q, QuerySet

from django_jobqueue import enqueue_many
from django_jobqueue.models import Job

from . import payment
from .checkout import place_order
from .models import Product
from .tasks import fetch_exchange_rates, make_thumbnail, sales_report

USERNAME = PASSWORD = "demo"

PICTURES = Path(__file__).parent / "pictures"

PRODUCTS = [
    ("Assam tea, 250 g", Decimal("12.90"), "tea.jpg"),
    ("Teapot", Decimal("48.00"), "teapot.jpg"),
    ("Pair of mugs", Decimal("26.50"), "mugs.jpg"),
    ("Kettle", Decimal("64.00"), "kettle.jpg"),
]

CUSTOMERS = [
    "Ada Okafor", "Bruno Silva", "Chiara Conti", "Dmitri Volkov", "Elif Demir", "Farah Haddad",
    "George Papadakis", "Hana Suzuki", "Ingrid Larsen", "Jakub Nowak", "Kavya Rao", "Liam Murphy",
]  # fmt: skip
DECLINED = {"Dmitri Volkov", "Jakub Nowak"}
EXPRESS = {"Ada Okafor", "Farah Haddad", "Liam Murphy"}

#: How many jobs of each task should end in which status. The declined cards are meant to fail.
EXPECTED = {
    "charge_card": {Job.Status.SUCCESSFUL: 10, Job.Status.FAILED: 2},
    "send_receipt": {Job.Status.SUCCESSFUL: 10},
    "remind_customer": {Job.Status.SUCCESSFUL: 2},
    "call_webhook": {Job.Status.SUCCESSFUL: 3},
    "make_thumbnail": {Job.Status.SUCCESSFUL: 4},
    "sales_report": {Job.Status.SUCCESSFUL: 1},
    "fetch_exchange_rates": {Job.Status.SUCCESSFUL: 1},
}

#: Remembers the latest run's orders and jobs, so that the report counts no others.
RUN_FILE = settings.VAR / "demo.json"


def stock_shelves() -> None:
    """Put the products with their pictures into the shop; the thumbnails are left to the jobs."""
    for name, price, picture in PRODUCTS:
        with (PICTURES / picture).open("rb") as file:
            values = {"price": price, "image": File(file, name=picture), "thumbnail": ""}
            Product.objects.update_or_create(name=name, defaults=values)


def reset_admin() -> None:
    """Let USERNAME with PASSWORD in, whatever became of the account since the last run."""
    values = {"is_staff": True, "is_superuser": True, "is_active": True}
    user, _ = get_user_model().objects.update_or_create(username=USERNAME, defaults=values)
    user.set_password(PASSWORD)
    user.save()


def enqueue() -> int:
    """Enqueue a morning's jobs and remember them as the latest run; return how many there are so far."""
    products = list(Product.objects.filter(name__in=[name for name, *_ in PRODUCTS]))
    jobs = [sales_report.enqueue(), fetch_exchange_rates.enqueue()]
    jobs += enqueue_many([make_thumbnail.s(product.pk) for product in products])
    orders = [
        place_order(
            products[number % len(products)],
            customer,
            email=f"{customer.split()[0].lower()}@example.com",
            card=payment.DECLINED_CARD if customer in DECLINED else payment.GOOD_CARD,
            is_express=customer in EXPRESS,
        )
        for number, customer in enumerate(CUSTOMERS)
    ]
    run = {"orders": [order.pk for order in orders], "jobs": [int(job.id) for job in jobs]}
    RUN_FILE.write_text(json.dumps(run))
    return jobs_of_latest_run().count()


def jobs_of_latest_run() -> QuerySet[Job]:
    """Also those that its jobs have enqueued since."""
    run = json.loads(RUN_FILE.read_text())
    return Job.objects.filter(Q(pk__in=run["jobs"]) | Q(order__in=run["orders"])).order_by("pk")
