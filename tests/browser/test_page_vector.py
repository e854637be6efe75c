"""A vector goes into the page: pasted, from a file, dropped."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from tests.helpers.page import TEXT, Open, finished, post, recover, requests_to

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def vector(server: str) -> list[float]:
    return list(post(server, "embed", {"texts": [TEXT]})["results"][0]["vector"])


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
        assert page.locator("#aligned mark").count() == 0 and page.is_hidden("#fates")  # nothing to compare with


def test_random_numbers_are_said_to_be_unlike_the_models_vectors(open_page: Open, server: str) -> None:
    numbers = np.random.default_rng(0).normal(0, 384**-0.5, 384).tolist()
    (found,) = post(server, "invert", {"vectors": [numbers], "options": {"strategy": "prior"}})["results"]
    if found["fit"] is None:
        pytest.skip("the model has no statistics of vectors that fit")
    page = open_page("#strategy=prior")
    page.click("#open-vector")
    page.fill("#numbers", json.dumps(numbers))
    page.click("#own .primary")
    finished(page)
    assert "unlike those the model has learnt" in page.inner_text("#vector-doubts")


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
