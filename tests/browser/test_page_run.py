"""What a run shows."""

from __future__ import annotations

import re

import pytest
from page_helpers import Open, canvas, frames_of, recover

pytestmark = pytest.mark.browser


def test_alternatives_come_by_pointer_and_by_focus(open_page: Open, width: str) -> None:
    page = open_page()
    recover(page)
    chip = page.locator("#view .chip").nth(1)
    if width == "desktop":
        chip.hover()
        assert page.locator("#alternatives .odds li").count() > 1
        page.mouse.move(0, 0)
        page.wait_for_selector("#alternatives", state="hidden")
    chip.focus()
    assert page.locator("#alternatives .odds li").count() > 1
    assert chip.get_attribute("aria-describedby") == "alternatives"
    first = page.inner_text("#alternatives")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#alternatives") != first
    assert page.evaluate("document.activeElement === document.querySelectorAll('#view .chip')[2]")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement === [...document.querySelectorAll('#view .chip')].at(-1)")
    page.keyboard.press("Escape")
    assert page.is_hidden("#alternatives")


def test_opened_positions_are_seen(open_page: Open) -> None:
    page = open_page("#strategy=draft-correct")
    recover(page)
    for at in range(frames_of(page)):
        page.locator("#view .player input").fill(str(at))
        if page.locator("#view .chip-open").count():
            break
    chip = page.locator("#view .chip-open").first
    assert "opened again" in page.inner_text("#view .caption")
    assert re.fullmatch(r"\w+ +opened again", chip.text_content().strip())
    assert "dashed" in chip.evaluate("(node) => getComputedStyle(node).borderStyle")
    assert "↺" in chip.locator(".chip-number").evaluate("(node) => getComputedStyle(node, '::before').content")


def test_the_scrubber_replays_every_step(open_page: Open) -> None:
    page = open_page()
    came = recover(page)
    scrub = page.locator("#view .player input")
    scrub.focus()
    page.keyboard.press("Home")
    assert page.locator("#view .chip:not(.chip-mask)").count() == 0
    assert page.inner_text("#view .step").startswith("1 /")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#view .step").startswith("2 /")
    assert scrub.get_attribute("aria-valuetext").startswith("step 2 of")
    page.get_by_role("button", name="One step back").first.click()
    assert page.inner_text("#view .step").startswith("1 /")
    page.locator("#view .speed").select_option("2")
    page.get_by_role("button", name="Play", exact=True).first.click()
    page.get_by_role("button", name="Pause").first.click()
    page.get_by_role("button", name="Play", exact=True).first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.wait_for_selector("#view .icon.is-playing")
    page.wait_for_selector("#view .icon:not(.is-playing)")
    page.get_by_role("button", name="Play again").first.wait_for()
    assert canvas(page) == came


def test_another_draft_is_shown(open_page: Open) -> None:
    page = open_page("#strategy=adaptive")
    came = recover(page)
    buttons = page.locator("#view .drafts button")
    assert buttons.count() == 3
    assert page.locator("#view .drafts [aria-pressed=true]").inner_text().endswith("chosen")
    other = page.locator("#view .drafts [aria-pressed=false]").first
    wanted = re.search(r"(\d+) tokens", other.inner_text())
    other.click()
    assert wanted and page.locator("#view .chip").count() == int(wanted[1])
    assert canvas(page) != came


def test_original_and_recovered_are_aligned(open_page: Open) -> None:
    page = open_page()
    recover(page, "Quaint zeppelins quietly overtook the marmalade factory before breakfast.")  # part of it is lost
    said = re.search(r"(\d+) of (\d+) tokens", page.inner_text("#matched"))
    assert said
    original, back = page.locator("#aligned .tokens").all()
    assert original.locator("mark").count() == back.locator("mark").count() == int(said[1])
    assert original.locator("mark, del").count() == int(said[2])
    # not by colour alone
    mark = "(n) => getComputedStyle(n).boxShadow"
    assert original.locator("mark").first.evaluate(mark) != "none"
    lost = original.locator("del").first
    assert "line-through" in lost.evaluate("(n) => getComputedStyle(n).textDecorationLine")
    assert "(lost)" in original.inner_text()


def test_facts_say_what_was_spent(open_page: Open) -> None:
    page = open_page()
    recover(page)
    facts = dict(
        zip(
            page.locator("#facts dt").all_inner_texts(),
            page.locator("#facts .fact > dd:first-of-type").all_inner_texts(),
            strict=True,
        )
    )
    assert 0.3 < float(facts["Cosine to the vector"]) <= 1
    assert int(facts["Passes in all"]) > 0
    assert facts["Queries"] == "0"
    assert facts["Time"].endswith(" s")
    floor = float(page.inner_text("#facts .scale-row").split(":")[1].replace("\u2212", "-"))
    assert -0.2 < floor < 0.3
