"""`manage.py test`: the test database is migrated before the first test."""

from django.test import SimpleTestCase


class ProductsTest(SimpleTestCase):
    def test_prices_in_cents(self) -> None:
        self.assertEqual(self.client.get("/products").json(), {"cup": 1999, "pot": 1999})
