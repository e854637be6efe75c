"""What can be chosen: settings, queries, two runs side by side, damage."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.page import Open, finished, recover, requests_to, show_settings, tokens

pytestmark = pytest.mark.browser

STATIC = Path(__file__).resolve().parents[2] / "src/unembed/serve/static"


def test_controls_reach_the_server(open_page: Open) -> None:
    page = open_page()
    show_settings(page)
    sent = requests_to(page, "/v1/invert/stream")
    page.get_by_label("Strategy").first.select_option("euler-remask")
    for name, value in (("Passes", "5"), ("Temperature", "0.7")):
        page.locator("#settings").get_by_label(name).fill(value)
    page.locator("#settings").get_by_label("Seed", exact=True).fill("11")
    page.locator("#settings").get_by_label("Seed", exact=True).blur()
    recover(page)
    wanted = {"strategy": "euler-remask", "passes": 5, "temperature": 0.7, "guidance": 1, "seed": 11}
    assert sent[0]["options"] == wanted
    page.get_by_label("Strategy").first.select_option("prior")
    assert page.get_by_label("Guidance").count() == 0  # the model was not trained for it
    for name in ("Passes", "Temperature"):
        assert page.locator("#settings").get_by_label(name).is_disabled()
    page.click("#again")
    page.locator("#facts .fact", has_text="Passes").get_by_text("0", exact=True).wait_for()
    assert sent[-1]["options"] == {"strategy": "prior"}
    page.get_by_role("button", name="Reset to the model's settings").click()
    assert page.get_by_label("Strategy").first.input_value() == "left-to-right"


def test_the_query_budget_is_spent(open_page: Open, server: str) -> None:
    with urllib.request.urlopen(f"{server}v1/models", timeout=60) as answer:
        able = json.load(answer)["models"][0]["queries"]
    page = open_page()
    show_settings(page)
    slider = page.locator("#settings").get_by_label("Query budget")
    if not able:
        assert slider.is_disabled()
        return
    slider.fill("10")
    recover(page)
    queries = page.locator("#facts .fact", has_text="Queries").locator("dd").inner_text()
    assert 0 < int(queries) <= 10
    with page.expect_download() as saved:
        page.click("#save-svg")
    drawn = Path(saved.value.path()).read_text("utf-8")
    assert re.search(r"after \d+ quer(y|ies): cosine", drawn)  # what the queries brought is in the picture too


def test_a_draft_is_corrected_at_the_press_of_a_button(open_page: Open) -> None:
    page = open_page()
    recover(page, "The witness saw two men leave the bank.")  # a draft that leaves something to correct
    sent = requests_to(page, "/v1/invert/stream")
    button = page.get_by_role("button", name="Correct this draft with the encoder: 20 queries")
    before = float(page.inner_text("#facts .fact-wide dd >> nth=0"))
    button.click()
    finished(page)
    assert [body["queries"] for body in sent] == [20]
    assert 0 < int(page.locator("#facts .fact", has_text="Queries").locator("dd").inner_text()) <= 20
    assert float(page.inner_text("#facts .fact-wide dd >> nth=0")) >= before
    assert page.inner_text("#correct") == "Correct this draft with the encoder: 100 queries"
    assert "not calibrated" in page.inner_text(".facts-note")  # no calibration knows of queries
    assert "Mean token probability" in page.inner_text("#facts") and "Confidence" not in page.inner_text("#facts dl")
    assert page.locator("#settings").get_by_label("Query budget").input_value() == "0"  # it was for that draft alone


def test_without_an_encoder_no_queries_are_offered(open_page: Open) -> None:
    page = open_page(prepare=lambda page: page.route("**/v1/models", saying('"queries":true', '"queries":false')))
    recover(page)
    assert page.is_hidden("#correct")


def saying(old: str, new: str) -> Callable[[Any], None]:
    """The server's answer with a part of it changed."""

    def change(route: Any) -> None:
        answer = route.fetch()
        assert old in answer.text()
        route.fulfill(response=answer, body=answer.text().replace(old, new))

    return change


def test_two_runs_side_by_side(open_page: Open) -> None:
    page = open_page()
    recover(page)
    sent = requests_to(page, "/v1/invert/stream")
    a, b = page.locator(".side").all()
    assert a.get_by_label("Strategy").input_value() != b.get_by_label("Strategy").input_value()
    b.get_by_label("Passes").fill("3")
    page.get_by_role("button", name="Run both").click()
    for side in (a, b):
        side.locator(".facts").wait_for()
        assert side.locator(".tokens").count() == 2
        assert side.locator(".chip").count() > 2
    asked = {body["options"]["strategy"]: body["options"].get("passes") for body in sent}
    other = b.get_by_label("Strategy").input_value()
    assert asked == {"left-to-right": None, other: 3}  # left to right takes one pass a token: none is set
    scrub = page.locator(".compare > .player input")
    scrub.fill("0")
    for side in (a, b):
        assert side.locator(".chip:not(.chip-mask)").count() == 0
    scrub.fill(scrub.get_attribute("max"))
    for side in (a, b):
        assert side.locator(".chip-mask").count() == 0


def test_damage_makes_the_text_fall_apart(open_page: Open) -> None:
    page = open_page()
    recover(page)
    kept = lambda: int(re.search(r"(\d+) of", page.inner_text(".damage-left >> nth=0"))[1])  # type: ignore[index] # noqa: E731
    whole, clean = kept(), tokens(page, ".damage-text")
    sent = requests_to(page, "/v1/invert/stream")
    for name, value, part in (
        ("Noise", "1.4", "noise"),
        ("Bits per number", "8", "bits"),
        ("Dimensions kept", "16", "dimensions"),
    ):
        page.locator("#sliders").get_by_label(name).fill(value)
        with page.expect_response("**/v1/invert/stream"):
            pass
        page.wait_for_selector(".damage:not(.is-working)")
        assert part in sent[-1]["transform"]
        assert tokens(page, ".damage-text") != clean
        page.get_by_role("button", name="Undo the damage").click()
        assert tokens(page, ".damage-text") == clean
        assert kept() == whole


def test_damage_says_what_is_left_by_chance_and_what_search_loses(open_page: Open) -> None:
    page = open_page()
    assert "defence" not in page.content().lower()
    recover(page)
    left = page.inner_text(".damage-left >> nth=0")
    chance = float(re.search(r"chance alone would give ([\d.]+)\.", left)[1])  # type: ignore[index]
    assert 0 < chance < 3
    measured = json.loads((STATIC / "damage.json").read_text("utf-8"))
    search = measured["search"]
    noise, bits, kept = (search[name].index(value) for name, value in (("noise", 0.5), ("bits", 4), ("dimensions", 64)))
    wanted = {
        "Noise": ("0.5", search["recall"][noise][0][-1]),
        "Bits per number": (str(bits), search["recall"][0][bits][-1]),
        "Dimensions kept": ("64", search["recall"][0][0][kept]),
    }
    found = lambda: int(re.search(r"(\d+) % of the ten", page.inner_text(".damage-search"))[1])  # type: ignore[index] # noqa: E731
    assert found() == 100
    for name, (value, recall) in wanted.items():
        page.locator("#sliders").get_by_label(name).fill(value)
        assert abs(found() - 100 * recall) <= 1
        page.get_by_role("button", name="Undo the damage").click()
    assert "recall@10" in page.inner_text(".damage-search")
    by = measured["trained"]["by"]
    share = by["noise of its length"]["fitted_on_change"]["value"] / by["none"]["fitted_on_change"]["value"]
    note = page.inner_text(".damage-note")
    assert "A model trained for the change loses less" in note and f"{100 * (1 - share):.0f} %" in note


def test_another_encoder_has_no_measured_cost(open_page: Open) -> None:
    other = saying('"encoder":{"name":"minilm"', '"encoder":{"name":"x"')
    page = open_page(prepare=lambda page: page.route("**/v1/models", other))
    recover(page)
    assert "not measured" in page.inner_text(".damage-search")
    assert "chance" not in page.inner_text(".damage-left >> nth=0")


def test_stale_damage_is_dropped(open_page: Open) -> None:
    page = open_page()
    recover(page)
    held: list[Any] = []
    aborted: list[Any] = []
    page.on("requestfailed", lambda request: aborted.append(request.post_data))
    page.route("**/v1/invert/stream", lambda route: route.continue_() if held else held.append(route))
    slider = page.locator("#sliders").get_by_label("Noise")
    for value in ("0.1", "0.2", "0.3"):  # one request: the moves are debounced
        slider.fill(value)
    while not held:
        page.wait_for_timeout(20)
    slider.fill("1.2")
    page.wait_for_selector(".damage:not(.is-working)")
    noise = [round(json.loads(body)["transform"]["noise"] * 384**0.5, 3) for body in aborted]
    assert len(held) == 1 and 0.3 in noise
