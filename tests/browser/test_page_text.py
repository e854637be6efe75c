"""A text goes into the page, against the real server with the shipped model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.page import TEXT, Open, canvas, finished, post, recover, requests_to

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]


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


def test_every_sample_comes_back_to_the_letter(server: str, width: str) -> None:
    if width == "phone":
        pytest.skip("the same texts")
    source = (ROOT / "src/unembed/serve/static/strings.en.js").read_text("utf-8")
    samples = re.findall(r'^  "(.+)",$', source.split("SAMPLES = [")[1].split("]")[0], re.MULTILINE)
    assert len(samples) > 5
    found = post(server, "invert", {"texts": samples})["results"]
    assert [result["text"] for result in found] == [sample.lower() for sample in samples]


def test_a_long_text_is_cut_and_what_was_cut_is_shown(open_page: Open) -> None:
    page = open_page()
    recover(page, "The nurse came and then " * 8 + "the doctor left.")
    doubts = page.inner_text("#text-doubts")
    assert "too long" in doubts and "32 of its 44 tokens" in doubts
    read, cut = page.locator("#text-doubts .cut-text > :is(span:not(.unseen), del)").all_inner_texts()
    assert len(read.split()) == 32 and len(cut.split()) == 12
    assert read.startswith("the nurse came") and cut.endswith("the doctor left .")
    assert page.locator("#aligned .tokens").first.locator("mark, del").count() == 32
    assert "as far as it was embedded" in page.inner_text("#aligned")
    recover(page, TEXT)
    assert page.is_hidden("#text-doubts")


def test_a_very_long_text_is_cut_by_the_model_alone(open_page: Open) -> None:
    page = open_page()
    sent = requests_to(page, "/v1/invert/stream")
    text = "The nurse came and then she left. " * 100
    recover(page, text)
    assert sent[0]["texts"] == [text.strip()]
    assert "32 of its 800 tokens" in page.inner_text("#text-doubts")
    assert len(page.inner_text("#text-doubts")) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "Der Hund schläft im Garten.",
        "Le chat dort sur la chaise.",
        "El perro come en la cocina.",
        "De kat slaapt op de stoel.",
        "Мы пойдём домой завтра.",
    ],
)
def test_another_language_is_said_to_be_so(open_page: Open, text: str) -> None:
    page = open_page("#strategy=prior")
    recover(page, text)
    assert "has learnt English" in page.inner_text("#text-doubts")
    assert "of the text" not in page.inner_text("#text-doubts")  # nothing was cut
    recover(page, TEXT)
    assert page.is_hidden("#text-doubts")


def test_a_text_that_the_tokenizer_cannot_read_is_refused_with_the_language(open_page: Open) -> None:
    page = open_page()
    page.expected += ["400"]
    page.fill("#text", "其中至少有一個是正確選項")
    page.click("#run")
    page.wait_for_selector("#trouble [role=alert]")
    assert "does not know" in page.inner_text("#trouble") and "English" in page.inner_text("#trouble")
