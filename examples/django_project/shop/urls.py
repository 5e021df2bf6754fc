"""One page: each product with its price in cents."""

from django.http import HttpRequest, JsonResponse
from django.urls import path

from quaestor.contrib.django import get_database


def products(request: HttpRequest) -> JsonResponse:
    """Each product with its price in cents."""
    return JsonResponse({product["_id"]: product["price"] for product in get_database().products.find().sort("_id")})


urlpatterns = [path("products", products)]
