"""The pictures in a real browser: nothing overlaps, nothing is missing, and the page does what it offers."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By

from quaestor.cli import pictures
from tests.browser.chromium import NoBrowserError, chromium
from tests.graphs import AWKWARD, shaped, status


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    try:
        with chromium() as running:
            yield running
    except NoBrowserError as error:
        pytest.fail(str(error))


def opened(browser: Chrome, path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    browser.get_log("performance")  # what came before is not asked for
    browser.get(path.as_uri())


def asked_of_page(browser: Chrome, script: str) -> Any:
    return browser.execute_script(script)


GEOMETRY = """
const place = (element) => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
return [...document.querySelectorAll(".box")].map((box) => ({
  name: box.querySelector(".name").textContent,
  rect: place(box.querySelector("rect")),
  texts: [...box.querySelectorAll("text")].map(place),
}));
"""


def _followed(browser: Chrome) -> list[str]:
    return [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".box.followed .name")]


def _view(browser: Chrome) -> list[float]:
    viewed = asked_of_page(browser, "return document.querySelector('main > svg').getAttribute('viewBox')")
    return [float(number) for number in viewed.split()]


@pytest.mark.parametrize("kind", ["html", "svg"])
@pytest.mark.parametrize("shape", ["chain", "fan", "layered", "independent", "awkward"])
def test_every_text_is_inside_its_box_and_no_two_boxes_overlap(
    browser: Chrome, tmp_path: Path, shape: str, kind: str
) -> None:
    needs = dict.fromkeys(AWKWARD, ()) if shape == "awkward" else shaped(shape)
    opened(browser, tmp_path / f"graph.{kind}", getattr(pictures, kind)(status(needs)))
    found = asked_of_page(browser, GEOMETRY)
    if shape != "awkward":
        assert [box["name"] for box in found] == list(needs)
    assert len(found) == len(needs)
    for box in found:
        left, top, right, bottom = box["rect"]
        for text in box["texts"]:
            assert left < text[0]
            assert top <= text[1]
            assert text[2] < right
            assert text[3] <= bottom
    for one, other in itertools.combinations([box["rect"] for box in found], 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize("kind", ["html", "svg"])
def test_nothing_is_loaded_and_nothing_is_complained_about(browser: Chrome, tmp_path: Path, kind: str) -> None:
    page = tmp_path / f"graph.{kind}"
    opened(browser, page, getattr(pictures, kind)(status({**dict.fromkeys(AWKWARD, ()), **shaped("layered")})))
    assert asked_of_page(browser, "return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []
    sent = [entry["message"] for entry in browser.get_log("performance")]
    urls = {
        url for entry in sent if "Network.requestWillBeSent" in entry for url in re.findall(r'"url":"(.*?)"', entry)
    }
    assert urls <= {page.as_uri(), "data:,"}
    assert browser.title != "broken out"


def test_the_search_marks_what_it_finds_and_brings_it_into_view(browser: Chrome, tmp_path: Path) -> None:
    opened(browser, tmp_path / "graph.html", pictures.html(status(shaped("chain"))))
    browser.find_element(By.ID, "search").send_keys("_199")
    assert [box.text for box in browser.find_elements(By.CSS_SELECTOR, ".found .name")] == [list(shaped("chain"))[199]]
    assert browser.find_element(By.ID, "found").text == "1 found"
    assert asked_of_page(
        browser,
        "const { left, right } = document.querySelector('.found').getBoundingClientRect();"
        "return 0 <= left && right <= innerWidth",
    )


def test_pointing_at_a_box_shows_what_it_needs_and_what_needs_it(browser: Chrome, tmp_path: Path) -> None:
    needs = {"a": (), "b": ("a",), "c": ("b",), "aside": ("a",), "elsewhere": ()}
    opened(browser, tmp_path / "graph.html", pictures.html(status(needs)))
    assert _followed(browser) == []
    ActionChains(browser).move_to_element(browser.find_element(By.ID, "m1")).perform()
    assert _followed(browser) == ["a", "b", "c"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".edge.followed")) == 2
    assert "needs a" in browser.find_element(By.TAG_NAME, "footer").text


def test_a_click_keeps_what_is_shown_until_escape(browser: Chrome, tmp_path: Path) -> None:
    opened(browser, tmp_path / "graph.html", pictures.html(status({"a": (), "b": ("a",), "c": ("a",)})))
    ActionChains(browser).click(browser.find_element(By.ID, "m1")).perform()
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert _followed(browser) == ["a", "b"]
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert _followed(browser) == []


def test_the_keyboard_goes_from_box_to_box(browser: Chrome, tmp_path: Path) -> None:
    opened(browser, tmp_path / "graph.html", pictures.html(status({"a": (), "b": ("a",), "c": ("b",)})))
    browser.find_element(By.ID, "fit").send_keys(Keys.TAB)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT).perform()
    assert asked_of_page(browser, "return document.activeElement.id") == "m1"


def test_wheel_buttons_and_drag_change_the_view(browser: Chrome, tmp_path: Path) -> None:
    opened(browser, tmp_path / "graph.html", pictures.html(status(shaped("layered"))))
    views = [_view(browser)]
    browser.find_element(By.ID, "in").click()
    views.append(_view(browser))
    assert views[1][2] < views[0][2]
    browser.find_element(By.ID, "out").click()
    views.append(_view(browser))
    assert views[2] == pytest.approx(views[0])
    picture = browser.find_element(By.CSS_SELECTOR, "main > svg")
    ActionChains(browser).move_to_element(picture).click_and_hold().move_by_offset(-100, -50).release().perform()
    views.append(_view(browser))
    assert views[3][0] > views[2][0]
    assert views[3][1] > views[2][1]
    browser.find_element(By.ID, "fit").click()
    inside = "const r = document.querySelector('.graph').getBoundingClientRect();"
    assert asked_of_page(browser, inside + "return 0 <= r.left && 0 <= r.top && r.right <= innerWidth")
