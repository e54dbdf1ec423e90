"""Stands in for a payment provider's library."""

from decimal import Decimal

GOOD_CARD = "card_visa"
DECLINED_CARD = "card_visa_chargeDeclined"


class CardDeclined(Exception):
    """The bank said no. Asking again will not change its mind."""


def charge(card: str, amount: Decimal, idempotency_key: str) -> None:
    """Take the money. The same key twice takes it once, which is what makes the call safe to repeat."""
    if card == DECLINED_CARD:
        raise CardDeclined(f"The bank declined {amount:.2f} EUR for {idempotency_key}: insufficient funds")
