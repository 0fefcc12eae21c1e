"""The page in a real browser, where there is one: no errors, figures drawn, colours and groups changed by keyboard."""

from pathlib import Path

import pytest
from headless import NO_BROWSER, start_browser
from made_up_contents import made_up
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from xpruner.report.page import page

pytestmark = NO_BROWSER


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(made_up(["cat", "<b>dog</b>", "owl"], {"a.attn:head": 3, "a.mlp:hidden": 8})), "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, address):
    dark(browser, False)
    browser.get(address)
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(DRAWN) == 5)
    return browser


DRAWN = "return document.querySelectorAll('.plot .main-svg:first-of-type').length"
COLOURS = """return [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector('[data-plot=keep] .xtick text')).fill]"""


FITS = """const widths = [...document.querySelectorAll('.plot .main-svg')].map((svg) => svg.clientWidth);
    const page = document.documentElement;
    return innerWidth === arguments[0] && page.scrollWidth <= page.clientWidth
        && Math.min(...widths) > 250 && Math.max(...widths) < page.clientWidth"""


def dark(browser, wanted: bool) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_it_is_drawn_without_errors_and_without_a_network(opened):
    assert opened.get_log("browser") == []
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    labels = opened.find_element(By.CSS_SELECTOR, "[data-plot=drops]").text
    assert "<b>dog</b>" in labels


def test_the_colours_change_by_keyboard_and_with_the_system(opened):
    light = opened.execute_script(COLOURS)
    toggle = opened.find_element(By.ID, "theme")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.send_keys(Keys.ENTER)
    night = opened.execute_script(COLOURS)
    assert toggle.get_attribute("aria-pressed") == "true"
    assert light[0] == "rgb(255, 255, 255)" and night[0] == "rgb(18, 22, 28)"
    assert light[1] == "rgb(26, 33, 41)" and night[1] == "rgb(232, 237, 242)"
    toggle.send_keys(Keys.SPACE)
    assert opened.execute_script(COLOURS) == light
    opened.execute_script("delete document.documentElement.dataset.theme")
    dark(opened, True)
    WebDriverWait(opened, 10).until(lambda b: b.execute_script(COLOURS) == night)


def test_a_group_is_chosen_by_keyboard(opened):
    masks = opened.find_element(By.ID, "masks")
    assert opened.execute_script("return document.getElementById('masks').data[0].x.length") == 2
    opened.find_element(By.ID, "group").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert opened.execute_script("return document.getElementById('masks').data[0].x.length") == 8
    assert masks.get_attribute("aria-label").startswith("a.mlp:hidden. 4 of 8 units stayed")
    shown = [part.get_attribute("data-of") for part in opened.find_elements(By.CSS_SELECTOR, "[data-of]")
             if part.is_displayed()]  # fmt: skip
    assert shown == ["masks-1"]
    assert "cat" in masks.text and "kept" in masks.text


def test_the_first_key_leads_to_the_contents(opened):
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    link = opened.switch_to.active_element
    assert link.text == "Skip to the report"
    link.send_keys(Keys.ENTER)
    assert opened.switch_to.active_element.get_attribute("id") == "main"


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        WebDriverWait(opened, 30).until(lambda b: b.execute_script(FITS, width))
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
