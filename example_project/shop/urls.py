from django.urls import path

from . import views

app_name = "shop"

urlpatterns = [
    path("", views.home, name="home"),
    path("buy/<int:product_id>/", views.buy, name="buy"),
    path("run/<str:name>/", views.run, name="run"),
]
