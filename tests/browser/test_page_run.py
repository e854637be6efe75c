"""What a run shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.page import Open, canvas, frames_of, recover

pytestmark = pytest.mark.browser

ORDER = "the police found the stolen car near the river ."
MOVED = "found the police the blue car river ."


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
    assert "masked again" in page.inner_text("#view .caption")
    assert re.fullmatch(r"\w+ +masked again", chip.text_content().strip())
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
    assert original.locator(".word-same").count() == back.locator(".word-same").count() == int(said[1])
    assert original.locator("mark, del").count() == int(said[2])
    # not by colour alone
    mark = "(n) => getComputedStyle(n).boxShadow"
    assert original.locator(".word-same").first.evaluate(mark) != "none"
    lost = original.locator("del").first
    assert "line-through" in lost.evaluate("(n) => getComputedStyle(n).textDecorationLine")
    assert "(lost)" in original.inner_text()


def answering(**more: Any) -> Callable[[Any], None]:
    """Answer a run with a text whose words stand in other places; `more` is of its result."""
    tokens = [{"text": text, "id": i, "confidence": 0.9} for i, text in enumerate(MOVED.split())]
    known = {"confidence": 0.9, "p_exact": 0.1, "likelihood": 0.8, "fit": 0.4, "misfit": None}
    result = {"text": MOVED, "tokens": tokens, "passes": 1, "queries": 0, **known, **more}
    start = {"vector": [0.1, -0.1], "original": ORDER, "tokens": ORDER.split(), "truncated": False}
    events = [("start", start), ("done", {"result": result, "seconds": 0.1, "cosine": 0.9, "floor": 0.0})]
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return lambda route: route.fulfill(content_type="text/event-stream", body=body)


def facts_of(page: Any) -> dict[str, str]:
    names = page.locator("#facts dt").all_inner_texts()
    return dict(zip(names, page.locator("#facts .fact > dd:first-of-type").all_inner_texts(), strict=True))


def test_a_word_that_came_back_in_another_place_is_not_lost(open_page: Open) -> None:
    page = open_page()
    page.route("**/v1/invert/stream", answering())
    recover(page, ORDER)
    original, back = page.locator("#aligned .tokens").all()
    assert original.locator(".word-same").all_inner_texts() == "the police the car river .".split()
    assert original.locator(".word-moved").all_inner_texts() == ["found"]
    assert original.locator("del").all_inner_texts() == ["stolen", "near", "the"]
    assert back.locator(".word-moved").all_inner_texts() == ["found"]
    assert back.locator("ins").all_inner_texts() == ["blue"]
    assert page.inner_text("#matched") == "6 of 10 tokens came back in order. 1 more came back in another place."
    moved = original.locator(".word-moved")
    colour = "(n) => getComputedStyle(n).backgroundColor"
    assert moved.evaluate(colour) != original.locator(".word-same").first.evaluate(colour)
    assert moved.evaluate("(n) => getComputedStyle(n).borderBottomStyle") == "dashed"  # not by colour alone
    assert "(in another place)" in original.inner_text()
    assert page.locator("#result .legend").inner_text().split("\n") == [
        "same token, in order",
        "in another place",
        "lost",
        "invented",
    ]
    assert "7 of 10 tokens are left" in page.inner_text(".damage-left >> nth=0")


def test_facts_say_what_was_spent(open_page: Open) -> None:
    page = open_page()
    recover(page)
    facts = facts_of(page)
    assert 0.3 < float(facts["Cosine to the vector"]) <= 1
    assert int(facts["Passes in all"]) > 0
    assert facts["Queries"] == "0"
    assert facts["Time"].endswith(" s")
    floor = float(page.inner_text("#facts .scale-row").split(":")[1].replace("\u2212", "-"))
    assert -0.2 < floor < 0.3


def test_calibration_is_claimed_only_where_it_holds(open_page: Open) -> None:
    page = open_page()
    page.route("**/v1/invert/stream", answering())
    recover(page, ORDER)
    facts = facts_of(page)
    assert facts["Confidence"] == "0.90" and facts["Exact"] == "10 %" and facts["Fit"] == "0.40"
    assert "Mean token probability" not in facts
    assert "calibrated on validation texts" in page.inner_text(".facts-note")
    page.unroute("**/v1/invert/stream")
    page.route("**/v1/invert/stream", answering(confidence=None, p_exact=None))
    recover(page, ORDER)
    page.locator("#live", has_text="Mean token probability 80 percent").wait_for(state="attached")
    facts = facts_of(page)
    assert facts["Mean token probability"] == "0.80"
    assert "Confidence" not in facts and "Exact" not in facts
    note = page.inner_text(".facts-note")
    assert "not calibrated" in note and "calibrated on validation texts" not in note


@pytest.mark.parametrize(
    ("misfit", "said"),
    [("vector", "another encoder"), ("long", "longer text"), ("language", "another language"), ("new", "Do not trust")],
)
def test_a_vector_that_does_not_fit_is_said_to_be_so(open_page: Open, misfit: str, said: str) -> None:
    page = open_page()
    page.route("**/v1/invert/stream", answering())
    recover(page, ORDER)
    assert page.is_hidden("#vector-doubts")
    page.unroute("**/v1/invert/stream")
    page.route("**/v1/invert/stream", answering(fit=0.002, misfit=misfit))
    recover(page, ORDER)
    doubts = page.inner_text("#vector-doubts")
    assert "fewer than one in a hundred held-out texts" in doubts and said in doubts
    page.locator("#live", has_text="Do not trust").wait_for(state="attached")
