"""A text goes into the page, against the real server with the shipped model."""

from __future__ import annotations

import re

import pytest
from page_helpers import TEXT, Open, canvas, finished, recover

pytestmark = pytest.mark.browser


def test_a_sentence_is_denoised_live(open_page: Open) -> None:
    page = open_page(motion=True)
    page.fill("#text", TEXT)
    page.press("#text", "Enter")
    page.wait_for_selector("#view .chip")
    page.wait_for_selector("#view .icon.is-playing")
    label = page.get_attribute("#strip canvas", "aria-label")
    assert "384 numbers" in label
    seen = set()
    while page.locator("#view .icon.is-playing").count():
        seen.add(page.inner_text("#view .step"))
        page.wait_for_timeout(40)
    came = finished(page)
    assert len(seen) > 5  # it was seen step by step
    assert canvas(page) == came
    numbers = page.locator("#view .chip-number").all_inner_texts()
    assert all(re.fullmatch(r"\d{1,3}%", number) for number in numbers)
    shades = page.evaluate(
        "[...document.querySelectorAll('#view .chip')].map((c) => getComputedStyle(c).backgroundColor)"
    )
    by_number = dict(zip(numbers, shades, strict=True))
    assert len(set(by_number.values())) > 1, "confidence has no colour"


def test_a_reader_who_pauses_a_live_run_is_not_overruled(open_page: Open) -> None:
    page = open_page(motion=True)
    page.fill("#text", TEXT)
    page.click("#run")
    page.get_by_role("button", name="Pause").first.click()
    at = page.inner_text("#view .step").split(" /")[0]
    finished(page)
    page.wait_for_timeout(700)
    assert page.inner_text("#view .step").split(" /")[0] == at
    assert page.locator("#view .icon.is-playing").count() == 0


def test_a_sample_runs(open_page: Open) -> None:
    page = open_page()
    page.click("#sample")
    first = page.input_value("#text")
    came = finished(page)
    assert first and came
    page.click("#sample")
    assert page.input_value("#text") != first


def test_an_empty_text_is_refused_kindly(open_page: Open) -> None:
    page = open_page()
    page.click("#run")
    assert "Write a sentence" in page.inner_text("#trouble [role=alert]")


def test_a_long_text_is_cut_and_says_so(open_page: Open) -> None:
    page = open_page()
    recover(page, "and then " * 40)
    assert "cut" in page.inner_text("#cut")
