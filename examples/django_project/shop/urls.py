"""One page: each product with its price in cents."""

from django.http import HttpRequest, JsonResponse
from django.urls import path

from shop.mongodb import database


def products(request: HttpRequest) -> JsonResponse:
    """Each product with its price in cents."""
    return JsonResponse({product["_id"]: product["price"] for product in database().products.find().sort("_id")})


urlpatterns = [path("products", products)]
