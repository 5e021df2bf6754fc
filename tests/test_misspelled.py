"""Which name may have been misspelled."""

import pytest

from quaestor._text import find_misspelled


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("shpo", ["shop", "admin"], "shop"),
        ("my_shop", ["myshop"], "myshop"),
        ("shop-prod", ["shop_prod", "shop_test"], "shop_prod"),
        ("tenant_2", ["tenant_1"], None),
        ("tenant_10", ["tenant_9"], None),
        ("tenant_65f1a2c3d4e5", ["tenant_65f1a2c3d4ea"], None),  # hexadecimal ids
        ("acme_x", ["acme_y", "acme_z"], None),  # several are similar
        ("shop_test", ["shop"], None),
        ("shop", ["billing", "shop2"], None),
        ("shop", [], None),
    ],
)
def test_find_misspelled(name: str, names: list[str], found: str | None) -> None:
    """A name is a misspelling of the only similar one, unless they differ in numbers alone or in length by far."""
    assert find_misspelled(name, names) == found
