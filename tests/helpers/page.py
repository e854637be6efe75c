"""What the tests of the page share: a text, requests to the server, and what the page shows."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

TEXT = "The patient was given two tablets after breakfast."
Open = Callable[..., Any]


def post(server: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{server}v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


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
    words = page.locator(where).locator("mark, del, ins, .word-plain").all_inner_texts()
    return "".join(words)


def canvas(page: Any) -> str:
    return "".join(page.locator("#view .chip-text").all_inner_texts())


def requests_to(page: Any, path: str) -> list[dict[str, Any]]:
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda r: bodies.append(json.loads(r.post_data)) if r.url.endswith(path) else None)
    return bodies


def frames_of(page: Any) -> int:
    return int(page.get_attribute("#view .player input", "max")) + 1


def show_settings(page: Any) -> None:
    if page.get_attribute("#settings-panel", "open") is None:
        page.click("#settings-panel summary")
