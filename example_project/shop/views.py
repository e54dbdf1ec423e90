from django.contrib import messages
from django.db.models import Prefetch
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from django_jobqueue.models import Job

from . import payment
from .checkout import place_order
from .models import Order, Product
from .tasks import fetch_exchange_rates, sales_report

#: The tasks that the page has a button for.
OFFICE_TASKS = {"sales_report": sales_report, "fetch_exchange_rates": fetch_exchange_rates}


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """The shop window, the latest orders with their jobs, and the latest jobs that belong to no order."""
    jobs = Prefetch("jobs", Job.objects.order_by("pk"))
    context = {
        "products": Product.objects.all(),
        "orders": Order.objects.select_related("product").prefetch_related(jobs)[:12],
        "office_jobs": Job.objects.filter(order=None).order_by("-pk")[:8],
        "office_tasks": OFFICE_TASKS,
    }
    return render(request, "shop/home.html", context)


@require_POST
def buy(request: HttpRequest, product_id: int) -> HttpResponse:
    order = place_order(
        get_object_or_404(Product, pk=product_id),
        customer="You",
        email="you@example.com",
        card=payment.DECLINED_CARD if "declined" in request.POST else payment.GOOD_CARD,
        is_express="express" in request.POST,
    )
    messages.success(request, f"Thank you! Order {order.pk} is placed; its jobs run in the background.")
    return redirect("shop:home")


@require_POST
def run(request: HttpRequest, name: str) -> HttpResponse:
    if name not in OFFICE_TASKS:
        raise Http404
    OFFICE_TASKS[name].enqueue()
    return redirect("shop:home")
