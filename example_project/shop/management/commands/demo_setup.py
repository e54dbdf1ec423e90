from django.core.management.base import BaseCommand

from shop import demo


class Command(BaseCommand):
    help = "Puts the products and the demo's admin account into the shop; again if they are there."

    def handle(self, **options):
        demo.stock_shelves()
        demo.reset_admin()
