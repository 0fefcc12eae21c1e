"""The page in a real browser, where there is one: no errors, figures drawn, colours and groups changed by keyboard."""

from pathlib import Path

import pytest
from headless import NO_BROWSER, fits
from made_up_contents import made_up
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from xpruner.report.page import page, write_report
from xpruner.run.finished import open_run

pytestmark = NO_BROWSER


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(made_up(["cat", "<b>dog</b>", "owl"], {"a.attn:head": 3, "a.mlp:hidden": 8})), "utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    dark(browser, False)
    browser.get(address)
    see_all(browser, 5)
    return browser


DRAWN = "return document.querySelectorAll('.plot .main-svg:first-of-type').length"
TO_FIGURE = "document.querySelectorAll('.plot')[arguments[0]].scrollIntoView({behavior: 'instant'})"
TOPS = "return [...document.querySelectorAll('section')].map((part) => Math.round(part.getBoundingClientRect().top))"
COLOURS = """return [getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.querySelector('[data-plot=keep] .xtick text')).fill]"""


FIGURES_FIT = """[...document.querySelectorAll('.plot .main-svg')].every((svg) =>
    svg.clientWidth > 250 && svg.clientWidth < page.clientWidth)"""


def dark(browser, wanted: bool) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def see_all(browser, figures: int) -> None:
    """Scrolls from figure to figure until each is drawn, as it is when it comes near the view."""
    assert browser.execute_script("return document.querySelectorAll('.plot').length") == figures
    for place in range(figures):
        browser.execute_script(TO_FIGURE, place)
        WebDriverWait(browser, 60).until(lambda b, place=place: b.execute_script(DRAWN) > place)
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(DRAWN) == figures)
    browser.execute_script("scrollTo({top: 0, behavior: 'instant'})")


def test_figures_that_are_out_of_sight_wait_and_move_nothing(browser, address):
    dark(browser, False)
    browser.get(address)
    assert browser.execute_script(DRAWN) < 5
    tops = browser.execute_script(TOPS)
    see_all(browser, 5)
    assert browser.execute_script(TOPS) == tops


def test_all_figures_are_there_for_a_printer(browser, address):
    browser.get(address)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(DRAWN) == 5


def test_the_page_of_a_run_is_drawn_without_errors(browser, finished_folder, tmp_path):
    browser.get(write_report(open_run(finished_folder), tmp_path / "report.html").as_uri())
    see_all(browser, 5)
    groups = browser.find_elements(By.CSS_SELECTOR, "#group option")
    browser.find_element(By.ID, "group").send_keys(Keys.END)
    shown = browser.find_element(By.ID, "masks")
    assert shown.get_attribute("aria-label").startswith(groups[-1].text)
    pictures = browser.find_elements(By.CSS_SELECTOR, ".pairs img")
    assert len(pictures) >= 3 and all(int(picture.get_property("naturalWidth")) > 0 for picture in pictures)
    assert browser.get_log("browser") == []


def test_a_thousand_classes_are_drawn_without_errors(browser, tmp_path, thousand_classes):
    path = tmp_path / "report.html"
    path.write_text(thousand_classes, "utf-8")
    browser.get(path.as_uri())
    see_all(browser, 5)
    browser.find_element(By.ID, "group").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert browser.execute_script("return document.getElementById('masks').data[0].x.length") == 1024
    assert browser.get_log("browser") == []


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
    assert masks.get_attribute("aria-label").startswith("a.mlp:hidden. 4 of 8 units are kept")
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
    assert fits(opened, width, FIGURES_FIT)


NAMES_FIT = """const plot = document.getElementById('masks').getBoundingClientRect();
    const names = [...document.querySelectorAll('#masks .xtick text, #masks .ytick text')];
    return names.length > 4 && names.every((name) => { const place = name.getBoundingClientRect(); return (
        place.left >= plot.left && place.bottom <= plot.bottom && place.right <= plot.right); })"""


@pytest.mark.parametrize("start", ["layers", "swin.encoder.layers"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_name_of_a_layer_is_clipped(browser, tmp_path, start, width):
    parts = ("attn:head", "attn:qk", "mlp:hidden")
    sizes = {f"{start}.{stage}.blocks.{block}.{part}": 8 for stage in range(4) for block in range(2) for part in parts}
    path = tmp_path / "report.html"
    path.write_text(page(made_up(["cat", "dog"], sizes)), "utf-8")
    browser.set_window_size(width, 800)
    browser.get(path.as_uri())
    browser.execute_script("document.getElementById('masks').scrollIntoView({behavior: 'instant'})")
    try:
        assert WebDriverWait(browser, 60).until(lambda b: b.execute_script(NAMES_FIT))
    finally:
        browser.set_window_size(1280, 1000)
