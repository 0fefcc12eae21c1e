"""A browser without a window, where there is one."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "disable-extensions", "no-first-run",
         "disable-background-networking", "disable-component-update", "window-size=1280,1000")  # fmt: skip
FITS = """const page = document.documentElement;
    return innerWidth === arguments[0] && page.scrollWidth <= page.clientWidth && ({})"""

NO_BROWSER = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver is installed here")


def start_browser() -> webdriver.Chrome:
    """Starts chromium; what its console says can be read with ``get_log("browser")``."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def fits(browser: webdriver.Chrome, width: int, also: str = "true") -> bool:
    """Tells whether a page becomes no wider than a screen of so many pixels, and meets a condition in JavaScript."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        return WebDriverWait(browser, 30).until(lambda b: b.execute_script(FITS.format(also), width))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
