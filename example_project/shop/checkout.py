"""What happens when a customer presses the button."""

from django.db import transaction

from .models import Order, Product
from .tasks import call_webhook, charge_card


def place_order(product: Product, customer: str, email: str, card: str, is_express: bool = False) -> Order:
    """Save the order and enqueue its jobs in one transaction: there is no order without them, and none for no order."""
    with transaction.atomic():
        order = Order.objects.create(product=product, customer=customer, email=email, card=card, is_express=is_express)
        order.enqueue(charge_card)
        if is_express:
            order.enqueue(call_webhook)
    return order
