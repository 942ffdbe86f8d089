"""A headless browser, if installed: Chromium, its driver and Selenium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.results.report import write_report
from tests.results.report.stores import mixed

DRIVERS = ("chromedriver", "/usr/lib/chromium/chromedriver")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """A page in Chromium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1280, scheme: str = "light") -> Browser:
        """Load a file, in a window of this width and with this preferred color scheme."""
        self.media(scheme)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        return self

    def media(self, scheme: str, media: str = "") -> None:
        """Set the preferred color scheme and the medium (print)."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def send(self, command: str, **options: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, options)

    def js(self, script: str, *arguments: Any) -> Any:
        """The value that a script returns."""
        return self.driver.execute_script(script, *arguments)

    def keys(self, *keys: str) -> None:
        """Type into the focused element."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver, duration=0)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def draw(self) -> None:
        """Draw the charts that are outside of the window, too, and wait for them."""
        draw = "dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))"
        left = "return document.querySelectorAll('.chart:not([data-drawn=done])').length"
        for _ in range(300):
            self.js(draw)
            if not self.js(left):
                return
            self.settle()
        state = "return Array.from(document.querySelectorAll('.chart'), c => c.dataset.drawn)"
        raise AssertionError(f"Charts are not drawn: {self.js(state)} {self.console()}")

    def settle(self) -> None:
        """Wait for charts that change."""
        self.driver.execute_async_script("setTimeout(arguments[0], 100)")

    def point(self, x: float, y: float) -> None:
        """Move the mouse pointer."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def console(self) -> list[str]:
        """Messages in the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Requested addresses."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped without it."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium is installed")
    driver = next(filter(None, map(shutil.which, DRIVERS)), None)
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if driver is None or binary is None:
        pytest.skip("no Chromium with its driver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    try:
        started = webdriver.Chrome(options=options, service=service)
    except Exception as error:  # a driver of another version than the browser, a locked machine
        pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
    try:
        yield Browser(started)
    finally:
        started.quit()


@pytest.fixture(scope="package")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a store that has everything."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(mixed(folder / "runs"), folder / "report.html")[0]
