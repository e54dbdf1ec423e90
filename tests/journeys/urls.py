"""No URLs: worker processes serve no pages."""

urlpatterns: list = []
