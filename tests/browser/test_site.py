"""The pages that `nox -s docs` makes, in a real browser: on a phone, a tablet and a desk, in light and dark."""

import contextlib
import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable, presence_of_all_elements_located
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.chromium import NoBrowserError, chromium

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted(
    str(page.relative_to(DOCS).with_suffix("")) for kind in ("md", "rst") for page in DOCS.rglob(f"[!_]*.{kind}")
)
WIDTHS = (380, 820, 1440)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built pages."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "sphinx", "-q", DOCS, folder], check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    try:
        with chromium() as running:
            yield running
    except NoBrowserError as error:
        pytest.fail(str(error))


@contextlib.contextmanager
def sized(browser: Chrome, width: int, height: int = 900) -> Iterator[None]:
    """A window of this size, in pixels; Chromium's own can't be as narrow as a phone."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def selected_tabs(browser: Chrome) -> set[str]:
    """The names of the tabs that are shown."""
    script = (
        "return [...document.querySelectorAll('.sd-tab-set > input:checked + label')].map(label => label.innerText)"
    )
    return set(browser.execute_script(script))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_fits_every_width_and_loads_all_it_needs(browser: Chrome, site: str, page: str) -> None:
    """No page scrolls sideways, is wider than a phone, or asks another server for something."""
    browser.get_log("browser")
    for width in WIDTHS:
        with sized(browser, width):
            browser.get(f"{site}/{page}.html")
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), width
            loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
            assert [each for each in loaded if not each.startswith((site, "data:"))] == []
    assert browser.get_log("browser") == []


def test_the_comparison_fits_a_phone(browser: Chrome, site: str) -> None:
    with sized(browser, 380):
        browser.get(f"{site}/compare.html")
        tables = browser.find_elements(By.CSS_SELECTOR, ".table-wrapper")
        assert tables
        assert all(browser.execute_script("return arguments[0].scrollWidth <= innerWidth", each) for each in tables)


def test_a_choice_of_tabs_holds_for_all_pages(browser: Chrome, site: str) -> None:
    browser.get(f"{site}/index.html")
    assert selected_tabs(browser) == {"Sync"}
    browser.find_element(By.XPATH, "//label[normalize-space()='Async']").click()
    assert selected_tabs(browser) == {"Async"}
    browser.get(f"{site}/tutorial.html")
    assert selected_tabs(browser) == {"Async"}


def test_a_copied_console_has_the_commands_alone(browser: Chrome, site: str) -> None:
    with sized(browser, 1440, 3000):  # nothing to scroll to
        browser.get(f"{site}/tutorial.html")
        browser.execute_script("document.addEventListener('copy', () => { window.copied = getSelection().toString() })")
        shown = "//div[contains(@class, 'highlight-console')][contains(., 'quaestor status')]//button"
        WebDriverWait(browser, 10).until(element_to_be_clickable((By.XPATH, shown))).click()
        assert browser.execute_script("return window.copied").splitlines() == ["quaestor status"]


def test_the_search_finds_a_page(browser: Chrome, site: str) -> None:
    browser.get(f"{site}/search.html?q=backfill")
    found = WebDriverWait(browser, 10).until(
        presence_of_all_elements_located((By.CSS_SELECTOR, "#search-results li a"))
    )
    assert "Backfills" in [link.text for link in found]


def test_dark_mode_changes_the_page_and_is_kept(browser: Chrome, site: str) -> None:
    browser.get(f"{site}/index.html")
    seen = {}
    for _ in ("auto", "light", "dark"):
        browser.find_element(By.CSS_SELECTOR, ".content-icon-container .theme-toggle").click()
        theme = browser.execute_script("return document.body.dataset.theme")
        browser.get(f"{site}/tutorial.html")
        assert browser.execute_script("return document.body.dataset.theme") == theme
        seen[theme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        if theme != "auto":  # pictures follow it
            assert browser.execute_script("return getComputedStyle(document.querySelector('img')).colorScheme") == theme
    assert set(seen) == {"auto", "light", "dark"}
    assert seen["light"] != seen["dark"]


def test_a_phone_has_the_navigation_behind_a_button(browser: Chrome, site: str) -> None:
    with sized(browser, 380):
        browser.get(f"{site}/index.html")
        link = browser.find_element(By.CSS_SELECTOR, ".sidebar-tree a[href='tutorial.html']")
        assert not browser.execute_script("return arguments[0].getBoundingClientRect().right > 0", link)
        browser.find_element(By.CSS_SELECTOR, ".nav-overlay-icon").click()
        WebDriverWait(browser, 10).until(element_to_be_clickable(link)).click()
        assert browser.title.startswith("Tutorial")
