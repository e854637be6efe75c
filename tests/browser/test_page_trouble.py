"""What the page says when the server does not answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helpers.page import TEXT, Open, finished

pytestmark = pytest.mark.browser


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
