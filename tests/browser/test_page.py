"""The page's functions in a browser, at two widths, against the real server with the shipped model."""

from __future__ import annotations

import io
import json
import re
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.browser

TEXT = "The patient was given two tablets after breakfast."
Open = Callable[..., Any]


def post(server: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{server}v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.fixture(scope="module")
def vector(server: str) -> list[float]:
    return list(post(server, "embed", {"texts": [TEXT]})["results"][0]["vector"])


def recover(page: Any, text: str = TEXT) -> str:
    """Run a text to its end; returns what came back, without spaces."""
    page.fill("#text", text)
    page.click("#run")
    return finished(page)


def finished(page: Any) -> str:
    page.wait_for_selector("body:not(.is-busy)")
    page.wait_for_selector("#result:not([hidden])")
    return tokens(page, "#aligned .tokens >> nth=-1")


def tokens(page: Any, where: str) -> str:
    words = page.locator(where).locator("mark, del, ins").all_inner_texts()
    return "".join(words)


def canvas(page: Any) -> str:
    return "".join(page.locator("#view .chip-text").all_inner_texts())


def requests_to(page: Any, path: str) -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda r: bodies.append(json.loads(r.post_data)) if r.url.endswith(path) else None)
    return bodies


def frames_of(page: Any) -> int:
    return int(page.get_attribute("#view .player input", "max")) + 1


# a text goes in


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


# a vector goes in


def npy(vector: list[float], kind: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(vector, dtype=kind))
    return buffer.getvalue()


def test_a_pasted_vector_comes_back(open_page: Open, vector: list[float]) -> None:
    page = open_page()
    wanted = recover(page)
    page.click("#open-vector")
    for pasted in (json.dumps(vector), json.dumps({"data": [{"embedding": vector}]}), ", ".join(map(str, vector))):
        page.fill("#numbers", pasted)
        page.click("#own .primary")
        assert finished(page) == wanted
        assert "not known" in page.inner_text("#matched")


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2"])
def test_a_numpy_file_comes_back(open_page: Open, vector: list[float], kind: str) -> None:
    page = open_page()
    page.click("#open-vector")
    page.set_input_files(
        "#file", {"name": "v.npy", "mimeType": "application/octet-stream", "buffer": npy(vector, kind)}
    )
    page.wait_for_selector("#result:not([hidden])")
    found = post(page.url.split("#")[0], "invert", {"vectors": [vector], "tokens": True})["results"][0]
    assert finished(page) == "".join(token["text"].removeprefix("##") for token in found["tokens"])


def test_a_row_of_many_is_chosen(open_page: Open, vector: list[float]) -> None:
    page = open_page()
    page.click("#open-vector")
    sent = requests_to(page, "/v1/invert/stream")
    rows = "\n".join([",".join(str(-x) for x in vector), ",".join(map(str, vector))])
    page.set_input_files("#file", {"name": "v.csv", "mimeType": "text/csv", "buffer": f"{rows}\n".encode()})
    finished(page)
    assert "of 2" in page.inner_text("#rows")
    page.fill("#row", "2")
    page.click("#own .primary")
    finished(page)
    assert [body["vectors"][0][0] for body in sent] == [-vector[0], vector[0]]


def test_a_file_is_dropped(open_page: Open, vector: list[float]) -> None:
    page = open_page()
    transfer = page.evaluate_handle(
        "(text) => { const t = new DataTransfer(); t.items.add(new File([text], 'mine.json')); return t; }",
        json.dumps([vector]),
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    assert page.is_visible("#drop")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    assert finished(page)
    assert page.is_hidden("#drop")
    assert page.inner_text("#source") == "mine.json"


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("[1, 2, 3]", "3 numbers, and the model reads 384"),
        ("[1, 2", "not valid JSON"),
        ('["a", "b"]', "not a number"),
        ("1,2\n3", "Row 2 has 1 numbers"),
        ("nan, 1", "NaN or infinity"),
        ("", "no numbers yet"),
    ],
)
def test_a_wrong_vector_is_explained(open_page: Open, pasted: str, said: str) -> None:
    page = open_page()
    page.click("#open-vector")
    page.fill("#numbers", pasted)
    page.click("#own .primary")
    assert said in page.inner_text("#own-trouble")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy([1.0, 2.0], "<i4"), "type <i4"),
        (npy([1.0, 2.0], "<f4")[:-3], "cut off"),
        (npy(np.zeros((2, 2, 2)).tolist(), "<f4"), "shape (2, 2, 2)"),
        (b"hello", "not a .npy file"),
    ],
)
def test_a_wrong_numpy_file_is_explained(open_page: Open, content: bytes, said: str) -> None:
    page = open_page()
    page.click("#open-vector")
    page.set_input_files("#file", {"name": "v.npy", "mimeType": "application/octet-stream", "buffer": content})
    page.wait_for_selector("#own-trouble [role=alert]")
    assert said in page.inner_text("#own-trouble")


# what is seen


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


# what can be chosen


def show_settings(page: Any) -> None:
    if page.get_attribute("#settings-panel", "open") is None:
        page.click("#settings-panel summary")


def test_controls_reach_the_server(open_page: Open) -> None:
    page = open_page()
    show_settings(page)
    sent = requests_to(page, "/v1/invert/stream")
    page.get_by_label("Strategy").first.select_option("euler-remask")
    for name, value in (("Passes", "5"), ("Temperature", "0.7"), ("Guidance", "1.5")):
        page.locator("#settings").get_by_label(name).fill(value)
    page.locator("#settings").get_by_label("Seed", exact=True).fill("11")
    page.locator("#settings").get_by_label("Seed", exact=True).blur()
    recover(page)
    wanted = {"strategy": "euler-remask", "passes": 5, "temperature": 0.7, "guidance": 1.5, "seed": 11}
    assert sent[0]["options"] == wanted
    page.get_by_label("Strategy").first.select_option("prior")
    for name in ("Passes", "Temperature", "Guidance"):
        assert page.locator("#settings").get_by_label(name).is_disabled()
    page.click("#again")
    page.locator("#facts .fact", has_text="Passes").get_by_text("0", exact=True).wait_for()
    assert sent[-1]["options"] == {"strategy": "prior"}
    page.get_by_role("button", name="Model's own settings").click()
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
    kept = lambda: int(re.search(r"(\d+) of", page.inner_text(".damage-left"))[1])  # type: ignore[index] # noqa: E731
    whole, clean = kept(), tokens(page, ".damage-text")
    sent = requests_to(page, "/v1/invert/stream")
    for name, value, part in (
        ("Noise", "1.4", "noise"),
        ("Bits a number", "8", "bits"),
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


# keep and share


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
    assert other.input_value("#text") == TEXT
    assert other.get_by_label("Strategy").first.input_value() == "sequential"
    assert other.locator("#settings input[type=range]").first.input_value() == "6"


def test_a_link_cannot_do_harm(open_page: Open) -> None:
    page = open_page(
        "#strategy=nonsense&passes=1e9&temperature=-4&seed=x&bits=999&text=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    )
    assert page.get_by_label("Strategy").first.input_value() == "left-to-right"
    assert page.locator("#settings input[type=range]").first.input_value() == "32"
    assert page.input_value("#text") == "<img src=x onerror=alert(1)>"
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


# for everyone


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
    recover(page)
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


# when the server does not answer


def test_a_lost_connection_can_be_retried(open_page: Open) -> None:
    page = open_page()
    page.expected += ["ERR_INTERNET_DISCONNECTED"]
    page.context.set_offline(True)
    page.fill("#text", TEXT)
    page.click("#run")
    page.wait_for_selector("#trouble [role=alert]")
    assert "connection to the server is lost" in page.inner_text("#trouble")
    page.context.set_offline(False)
    page.get_by_role("button", name="Retry").click()
    assert finished(page)
    assert page.locator("#trouble [role=alert]").count() == 0


def test_a_busy_server_can_be_asked_again(open_page: Open) -> None:
    page = open_page()
    page.expected += ["503"]
    page.route("**/v1/invert/stream", lambda route: route.fulfill(status=503, headers={"Retry-After": "3"}, body="{}"))
    page.fill("#text", TEXT)
    page.click("#run")
    page.wait_for_selector("#trouble [role=alert]")
    assert "busy" in page.inner_text("#trouble") and "3 s" in page.inner_text("#trouble")
    page.unroute("**/v1/invert/stream")
    page.get_by_role("button", name="Retry").click()
    assert finished(page)


def test_a_stream_that_breaks_off_is_noticed(open_page: Open) -> None:
    page = open_page()
    half = (
        'event: start\ndata: {"length_guess": 3, "vector": [0.1, -0.2], "original": null, "tokens": null}\n\nevent: st'
    )
    page.route("**/v1/invert/stream", lambda route: route.fulfill(content_type="text/event-stream", body=half))
    page.fill("#text", TEXT)
    page.click("#run")
    page.wait_for_selector("#trouble [role=alert]")
    assert "connection to the server is lost" in page.inner_text("#trouble")
    assert page.inner_text("#run") == "Recover it"


def test_a_server_error_is_told_in_its_own_words(open_page: Open) -> None:
    page = open_page()
    page.expected += ["400"]
    body = json.dumps({"error": {"message": "Text 0 is odd.", "hint": "Change it."}})
    page.route("**/v1/invert/stream", lambda route: route.fulfill(status=400, body=body))
    page.fill("#text", TEXT)
    page.click("#run")
    page.wait_for_selector("#trouble [role=alert]")
    assert page.inner_text("#trouble").split("\n\n")[0].startswith("Text 0 is odd.")
    assert "Change it." in page.inner_text("#trouble")


def test_a_server_with_a_token_asks_for_it(open_page: Open) -> None:
    page = open_page()
    page.expected += ["401"]

    def guard(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, body="{}")

    page.route("**/v1/**", guard)
    page.fill("#text", TEXT)
    page.click("#run")
    page.get_by_label("Token").fill("secret")
    page.get_by_role("button", name="Continue").click()
    assert finished(page)


def test_a_run_is_stopped(open_page: Open) -> None:
    page = open_page()
    held: list[Any] = []
    failed: list[Any] = []
    page.on("requestfailed", lambda request: failed.append(request))
    page.route("**/v1/invert/stream", lambda route: held.append(route))
    page.fill("#text", TEXT)
    page.click("#run")
    page.get_by_role("button", name="Stop").wait_for()
    page.click("#run")
    page.get_by_role("button", name="Recover it").wait_for()
    page.wait_for_timeout(100)
    assert len(held) == len(failed) == 1
    assert page.locator("#trouble [role=alert]").count() == 0
