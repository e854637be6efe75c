"""The page for everyone: keyboard, screen reader, axe, the narrowest phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.page import TEXT, Open, canvas, finished, frames_of, recover, show_settings

pytestmark = pytest.mark.browser


def test_everything_works_by_keyboard(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    came = finished(page)
    reached: list[str] = []
    while not reached or reached[-1] != "skip":  # once around
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert len(reached) < 100
    for name in ("sample", "open-vector", "copy", "save-json", "save-svg", "with-text"):
        assert name in reached
    assert any(name.startswith("chip ") for name in reached)
    assert len([name for name in reached if name.startswith("chip ")]) == 1  # arrows move among tokens
    assert len(came) > 3


def test_results_are_announced_once(open_page: Open) -> None:
    page = open_page(motion=True)
    page.evaluate(
        """() => { window.heard = [];
        new MutationObserver(() => heard.push(document.querySelector('#live').textContent))
          .observe(document.querySelector('#live'), {childList: true, subtree: true, characterData: true}); }"""
    )
    recover(page)
    page.wait_for_timeout(2000)
    heard = page.evaluate("window.heard")
    assert len(heard) == 1
    assert heard[0].startswith("Recovered: ") and "Confidence" in heard[0]


def test_reduced_motion_shows_the_end_at_once(open_page: Open) -> None:
    page = open_page()
    came = recover(page)
    assert page.locator("#view .icon.is-playing").count() == 0
    assert canvas(page) == came
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Open, scheme: str) -> None:
    page = open_page(scheme=scheme)
    serious(page)
    recover(page, "Le chat dort sur la chaise, et il a sold his house. " * 3)  # too long, another language, words moved
    assert page.is_visible("#text-doubts") and page.locator("#aligned .word-moved").count()
    page.get_by_role("button", name="Run both").click()
    page.locator(".side .facts").nth(1).wait_for()
    show_settings(page)
    page.click("#open-vector")
    page.click("#own .primary")  # a message is shown
    page.check("#with-text")
    page.locator("#sliders").get_by_label("Noise").fill("0.9")
    page.wait_for_selector(".damage:not(.is-working)")
    for at in range(frames_of(page)):
        page.locator("#view .player input").fill(str(at))
        if page.locator("#view .chip-open").count():
            break
    page.locator("#view .chip-token").first.focus()
    serious(page)


def serious(page: Any) -> None:
    source = (Path(__file__).parent / "axe.min.js").read_text("utf-8")
    page.evaluate(source)  # not a script element: the policy of the page would refuse it
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    faults = [
        (fault["id"], node["html"][:120], node["failureSummary"][:300])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert not faults
    assert len(found["passes"]) > 10, "axe did not look"


def test_nothing_is_wider_than_the_narrowest_phone(open_page: Open, width: str) -> None:
    page = open_page(size=(360, 740) if width == "phone" else (1000, 700))
    recover(page, "internationalization " * 5)
    page.get_by_role("button", name="Run both").click()
    page.locator(".side .facts").nth(1).wait_for()
    show_settings(page)
    page.click("#open-vector")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
    small = page.evaluate(
        """[...document.querySelectorAll('button, select, input:not([type=range], [type=checkbox])')]
        .filter((n) => n.offsetParent && n.getBoundingClientRect().height < 24).map((n) => n.outerHTML)"""
    )
    assert not small  # WCAG 2.2: targets of at least 24 pixels
