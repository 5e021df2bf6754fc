"""A real Chromium without a window, which the pictures are looked at with."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
)


class NoBrowserError(RuntimeError):
    """No Chromium can be had here; `str()` says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "No Chromium: put chromium (or google-chrome) and chromedriver on PATH "
            "(Debian: apt-get install chromium chromium-driver)."
        )


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser with a new profile; it ends with the context.

    Raises:
        NoBrowserError: Chromium or its driver is not on PATH.
    """
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        raise NoBrowserError
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = binary
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = Chrome(options, Service(driver))
        try:
            yield browser
        finally:
            browser.quit()
