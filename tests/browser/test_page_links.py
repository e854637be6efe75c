"""What is kept or shared, and what an opened link does."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.page import TEXT, Open, canvas, finished, recover, requests_to, show_settings

pytestmark = pytest.mark.browser


def test_a_link_holds_settings_and_only_on_request_the_text(open_page: Open) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    show_settings(page)
    page.get_by_label("Strategy").first.select_option("sequential")
    page.locator("#settings").get_by_label("Passes").fill("6")
    recover(page)
    page.locator("#sliders").get_by_label("Noise").fill("0.5")
    page.click("#copy")
    page.wait_for_selector("#kept p")
    link = page.evaluate("navigator.clipboard.readText()")
    assert "strategy=sequential" in link and "passes=6" in link and "noise=0.5" in link
    assert "text=" not in link and "breakfast" not in link
    assert page.is_hidden("#with-text-warning")
    page.check("#with-text")
    assert "can read the sentence" in page.inner_text("#with-text-warning")
    page.click("#copy")
    page.wait_for_timeout(300)
    link = page.evaluate("navigator.clipboard.readText()")
    other = open_page("#" + link.split("#")[1])
    came = finished(other)  # it runs at once
    assert other.input_value("#text") == TEXT
    assert canvas(other) == came
    assert other.get_by_label("Strategy").first.input_value() == "sequential"
    assert other.locator("#settings input[type=range]").first.input_value() == "6"


def test_an_opened_link_runs_and_spends_no_queries(open_page: Open) -> None:
    sent: list[Any] = []
    watch = lambda page: sent.append(requests_to(page, "/v1/invert/stream"))  # noqa: E731
    page = open_page("#strategy=adaptive&passes=4&queries=50&noise=0.5&text=A+quiet+street.", prepare=watch)
    finished(page)
    page.wait_for_selector(".damage:not(.is-working)")
    assert [body["texts"] for body in sent[0]] == [["A quiet street."]] * 2  # as it is, and with the damage
    assert [body["queries"] for body in sent[0]] == [0, 0]
    assert sent[0][0]["options"]["passes"] == 4 and "noise" in sent[0][1]["transform"]
    assert "50 queries" in page.inner_text("#correct")  # what the link wants waits for the reader
    with page.expect_request("**/v1/invert/stream"):
        page.evaluate("location.hash = '#strategy=prior&text=Another+street.'")  # another link, in the same tab
    finished(page)
    assert page.input_value("#text") == "Another street."
    assert sent[0][2]["texts"] == ["Another street."] and sent[0][2]["options"] == {"strategy": "prior"}


def test_a_link_without_a_sentence_says_so(open_page: Open) -> None:
    page = open_page("#strategy=adaptive")
    assert "holds no sentence" in page.inner_text("#trouble")
    assert page.is_hidden("#result")
    page.focus(".skip")
    page.keyboard.press("Enter")  # its target is a fragment too, and no link
    assert page.get_by_label("Strategy").first.input_value() == "adaptive"


def test_a_link_cannot_do_harm(open_page: Open) -> None:
    page = open_page(
        "#strategy=nonsense&passes=1e9&temperature=-4&seed=x&bits=999&text=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    )
    assert page.get_by_label("Strategy").first.input_value() == "left-to-right"
    assert page.locator("#settings input[type=range]").first.input_value() == "32"
    assert page.input_value("#text") == "<img src=x onerror=alert(1)>"
    finished(page)
    assert page.locator("img").count() == 0


def test_a_trace_is_saved_as_json(open_page: Open) -> None:
    page = open_page()
    came = recover(page)
    with page.expect_download() as saved:
        page.click("#save-json")
    trace = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert trace["original"].startswith("the patient")
    assert len(trace["vector"]) == 384
    assert "".join(token["text"].removeprefix("##") for token in trace["result"]["tokens"]) == came
    assert len([step for step in trace["steps"] if step["draft"] == trace["draft"]]) > 3
    assert trace["request"]["options"]["strategy"] == "left-to-right"


def test_a_trace_is_saved_as_an_animated_picture(open_page: Open) -> None:
    page = open_page()
    recover(page)
    with page.expect_download() as saved:
        page.click("#save-svg")
    svg = Path(saved.value.path()).read_text("utf-8")
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "@keyframes" in svg and "<script" not in svg and "@import" not in svg
    assert re.findall(r"https?://[^\"']+", svg) == ["http://www.w3.org/2000/svg"]
    shown = "".join(root.itertext())
    assert "the patient" in shown and "384 numbers become a text (left-to-right)" in shown
