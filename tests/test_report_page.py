"""The report page in a real browser, opened from disk, without any network."""

import pytest

from lora.reporting.page import page_of
from tests.browsers import WIDTHS, Opened
from tests.lora.reporting.reports import HOSTILE, RIGHT_TO_LEFT, some_contents

WHOLE = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
CUT = "document.querySelector('.compare').style.getPropertyValue('--cut')"


@pytest.fixture
def open_page(tmp_path, browser):
    """Opens a page with this prompt in all places."""

    def opened(prompt: str = "a TOK", **options: object) -> Opened:
        (tmp_path / "index.html").write_text(page_of(some_contents(tmp_path, prompt=prompt)), encoding="utf-8")
        return Opened(browser, tmp_path / "index.html", **options)

    return opened


def test_all_images_are_whole_and_nothing_is_asked_for_or_printed(open_page):
    opened = open_page()
    assert opened.page.evaluate(WHOLE) == [True] * 13, "10 samples and 3 thumbnails"
    assert opened.asked_for == []
    assert opened.lines == []


def test_the_slider_moves_by_mouse_and_by_keyboard(open_page):
    page = open_page().page
    slider = page.locator(".compare input").first
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    by_mouse = float(page.evaluate(CUT).rstrip("%"))
    assert by_mouse > 80
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert float(page.evaluate(CUT).rstrip("%")) == by_mouse - 1


@pytest.mark.parametrize("prompt", [HOSTILE, RIGHT_TO_LEFT])
def test_texts_of_a_user_are_shown_as_text(open_page, prompt):
    opened = open_page(prompt)
    assert prompt in opened.page.inner_text("figcaption")
    assert prompt in opened.page.inner_text(".images")
    assert opened.page.title() == "TOK: training report"
    assert opened.lines == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways_in_light_and_dark(open_page, scheme):
    page = open_page("TOK" * 60, viewport={"width": 360, "height": 740}, color_scheme=scheme).page
    content, screen = page.evaluate(WIDTHS)
    assert content <= screen
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(22, 22, 26)") == (scheme == "dark")


def test_every_control_has_a_name_for_a_screen_reader(open_page):
    page = open_page().page
    names = page.locator("input").evaluate_all("inputs => inputs.map(input => input.getAttribute('aria-label'))")
    assert len(set(names)) == len(names) == 2
    assert all(page.locator("h2").all_inner_texts())
    assert page.locator("svg title").first.text_content() == "Loss by step"
