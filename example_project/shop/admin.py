from django.contrib import admin

from .models import Order, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "price", "image", "thumbnail"]


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["__str__", "customer", "product", "is_express", "placed_at", "paid_at"]
    list_filter = ["is_express", "product"]
    list_select_related = ["product"]
