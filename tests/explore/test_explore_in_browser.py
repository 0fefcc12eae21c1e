"""The page in a real browser, where there is one and gradio: its controls change what it shows, and errors pass."""

import os
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from headless import NO_BROWSER, fits
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from xpruner.errors import UsageError
from xpruner.explore.page import serve
from xpruner.run.finished import open_run

pytestmark = NO_BROWSER


@pytest.fixture(scope="module")
def served(finished_folder):
    page = serve(open_run(finished_folder), "127.0.0.1", None, browser=False, images=16)
    yield page
    page.close(verbose=False)


@pytest.fixture
def opened(browser, served):
    browser.get(served.local_url)
    until(browser, ".trio", "pruned model")
    return browser


def until(browser, place: str, words: str) -> None:
    """Waits until a part of the page says something."""

    def said(driver) -> bool:
        return any(words in part.text for part in driver.find_elements(By.CSS_SELECTOR, place))

    WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(said, f"{place}: {words}")


def control(browser, label: str):
    return browser.find_element(By.CSS_SELECTOR, f"input[aria-label='{label}']")


def choose(browser, label: str, *values: str) -> None:
    for value in values:
        control(browser, label).send_keys(value, Keys.ENTER)


def test_it_opens_with_the_run_s_own_model_and_loads_nothing_from_elsewhere(opened, served):
    until(opened, ".shown", "The pruned model is the run's own.")
    until(opened, ".pair", "Pruned to 0.5")
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded and all(address.startswith((served.local_url, "data:", "blob:")) for address in loaded)
    assert opened.get_log("browser") == []


def test_it_is_seen_on_this_computer_alone_and_reports_to_nobody(served):
    assert served.local_url.startswith("http://127.0.0.1:")
    assert served.share_url is None and not served.analytics_enabled
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_the_budget_is_moved_by_keyboard(opened):
    slider = control(opened, "range slider for Budget")
    slider.send_keys(*[Keys.ARROW_RIGHT] * 4)
    until(opened, ".shown pre", "--budget 0.54 ")
    until(opened, ".shown", "compensated on 16 training images, but not trained")
    until(opened, ".pair", "Pruned to 0.54")
    slider.send_keys(Keys.HOME)
    until(opened, ".toast-body", "The budget of 0.01 macs is out of reach")
    slider.send_keys(Keys.END)
    until(opened, ".tiles", "100.0 %")
    until(opened, ".pair", "Pruned to 1")


def test_classes_are_chosen(opened):
    choose(opened, "Classes", "7")
    until(opened, "body", "Choose one more.")
    choose(opened, "Classes", "2")
    until(opened, ".shown pre", "--classes 2,7 --budget 0.5")
    WebDriverWait(opened, 60).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".pair li")) == 4)


def test_an_image_of_one_s_own_is_shown_and_a_bad_one_refused(opened, tmp_path):
    Image.new("L", (8, 8), 99).save(tmp_path / "mine.png")
    (tmp_path / "bad.png").write_text("no image")
    upload(opened, tmp_path / "mine.png")
    until(opened, ".shown p", "mine.png.")
    opened.find_element(By.CSS_SELECTOR, "button[aria-label=Clear]").click()
    until(opened, ".shown p", "Image 0 of the run")
    upload(opened, tmp_path / "bad.png")
    until(opened, ".toast-body", "The image bad.png cannot be read (its format is unknown)")
    opened.find_element(By.CSS_SELECTOR, "button[aria-label=Clear]").click()
    control(opened, "Image").send_keys(Keys.BACKSPACE, "7")
    until(opened, ".shown p", "Image 7 of the run")


def upload(browser, path: Path) -> None:
    browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(path))


def test_the_maps_change_with_their_method(opened):
    before = opened.find_element(By.CSS_SELECTOR, ".trio img[alt='pruned model']").get_attribute("src")
    field = control(opened, "Explanation maps")
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, "rollout", Keys.ENTER)

    def changed(driver) -> bool:
        return driver.find_element(By.CSS_SELECTOR, ".trio img[alt='pruned model']").get_attribute("src") != before

    WebDriverWait(opened, 60, ignored_exceptions=[StaleElementReferenceException]).until(changed)


def test_a_run_without_masks_shows_an_error_and_continues(browser, finished_folder, tmp_path):
    for name in ("dense", "pruned", "plan.json"):
        (tmp_path / name).symlink_to(finished_folder / name)
    config = (finished_folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("method: xpruner", "method: l2"))
    page = serve(open_run(tmp_path), "127.0.0.1", None, browser=False)
    try:
        browser.get(page.local_url)
        until(browser, ".pair", "Pruned to 0.5")
        control(browser, "range slider for Budget").send_keys(Keys.ARROW_RIGHT)
        until(browser, ".toast-body", "has no masks")
        control(browser, "Image").send_keys(Keys.BACKSPACE, "3")
        until(browser, ".toast-body", "has no masks")
        control(browser, "range slider for Budget").send_keys(Keys.ARROW_LEFT)
        until(browser, ".shown p", "Image 3 of the run")
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_address_that_cannot_be_had_is_one_sentence(served, finished_folder, host):
    port = served.server_port
    with pytest.raises(
        UsageError, match=rf"^The page cannot be opened at port {port} of {host}; choose another --port"
    ):
        serve(open_run(finished_folder), host, port, browser=False)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(opened, width):
    assert fits(opened, width)
