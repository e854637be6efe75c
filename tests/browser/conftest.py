"""A real server with the shipped model, and Chromium without a window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = {"desktop": (1280, 800), "phone": (375, 812)}
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WAIT = 60_000  # milliseconds; a machine may be busy


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of a server."""
    command = [sys.executable, "-m", "unembed", "serve", "--port", "0", "--no-open", "--rate", "0", "--device", "cpu"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = next((m for line in process.stdout if (m := re.search(r"http://\S+/", line))), None)
        assert found, "the server did not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=60)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed: make browser")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(params=list(WIDTHS))
def width(request: pytest.FixtureRequest) -> str:
    """Each test runs at each width."""
    return str(request.param)


@pytest.fixture
def open_page(browser: Any, server: str, width: str) -> Iterator[Callable[..., Any]]:
    """Open the page: `open_page(fragment="", motion=False, scheme="light", size=None, prepare=...)`.

    At the end no page may have asked another address, nor written an error that the test did not expect
    (`page.expected`, parts of messages).
    """
    pages: list[Any] = []
    contexts: list[Any] = []

    def opened(
        fragment: str = "",
        motion: bool = False,
        scheme: str = "light",
        size: tuple[int, int] | None = None,
        prepare: Callable[[Any], object] = lambda page: None,
        **more: Any,
    ) -> Any:
        wide, tall = size or WIDTHS[width]
        context = browser.new_context(
            viewport={"width": wide, "height": tall},
            color_scheme=scheme,
            reduced_motion="no-preference" if motion else "reduce",
            accept_downloads=True,
            has_touch=width == "phone",
            **more,
        )
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.expected, page.asked, page.said = [], [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        prepare(page)
        page.goto(server + fragment)
        page.wait_for_selector("body.is-ready")
        contexts.append(context)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        foreign = [url for url in page.asked if not url.startswith((server, "blob:", "data:"))]
        assert not foreign
        said = [text for text in page.said if not any(part in text for part in page.expected)]
        assert not said
    for context in contexts:
        context.close()
