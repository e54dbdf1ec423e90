from django.core.management.base import BaseCommand

from shop import demo


class Command(BaseCommand):
    help = "Enqueues the jobs of the demo: 12 orders, 4 thumbnails, a sales report and the exchange rates."

    def handle(self, **options):
        self.stdout.write(f"Enqueued {demo.enqueue()} jobs. Some of them will enqueue more.")
