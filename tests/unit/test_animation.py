"""Animated decodes: what a trace says is what the picture shows, it stays inside its frame, and it runs nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.decoding.trace import Step
from unembed.errors import InputError
from unembed.evaluation.animation import WIDTH, Frame, draw, frames

DOCS = Path(__file__).resolve().parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
ODD = ["<script>alert(1)</script>", "&amp;", '"quoted"', "日本語", "a\x00b", "x" * 120]
FINAL = {"recovered": "it is <b> & done", "confidence": 0.5}


def names(ids: Sequence[int]) -> list[str]:
    """Tokens that are hard to draw, and plain ones."""
    return [ODD[i - 5] if 5 <= i < 5 + len(ODD) else f"t{i}" for i in ids]


def real_steps(strategy: str, **options: object) -> tuple[Step, ...]:
    """A trace of a tiny network with random weights."""
    config = DecodeConfig(strategy=strategy, lengths=1, **options)  # type: ignore[arg-type]
    (draft,) = decode(tiny_denoiser(), some_vectors(1), config, trace=True)
    assert draft.trace is not None
    return draft.trace.steps


def texts(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}text"))


def extent(element: ET.Element) -> tuple[float, float]:
    """Left and right edge of a text: its width is fixed by textLength."""
    x, width = float(element.get("x", "")), float(element.get("textLength", ""))
    left = x - {"middle": width / 2, "end": width}.get(element.get("text-anchor", ""), 0)
    return left, left + width


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("adaptive", {"passes": 6}),
        ("euler-remask", {"passes": 10, "remask": 0.3}),
        ("left-to-right", {}),
        ("draft-correct", {"passes": 3}),
    ],
)
def test_every_committed_token_is_drawn_inside_the_frame(strategy: str, options: dict[str, object]) -> None:
    steps = real_steps(strategy, **options)
    shown = frames(steps, names)
    svg = draw(shown, original="x" * 400, cosine=0.25, **FINAL)  # type: ignore[arg-type]
    drawn = {element.text for element in texts(svg)}
    committed = {
        names([step.ids[i]])[0].replace("\x00", " ") for step in steps for i in step.chosen if i < len(step.ids)
    }
    assert committed and committed <= drawn
    for element in texts(svg):
        left, right = extent(element)
        assert 0 <= left and right <= WIDTH, element.text
    for box in ET.fromstring(svg).iter(f"{SVG}rect"):
        assert 0 <= float(box.get("x", "")) and float(box.get("x", "")) + float(box.get("width", "")) <= WIDTH
    assert any(step.remasked for step in steps) == ('class="o"' in svg)
    assert f"pass {steps[-1].pass_count} of {steps[-1].pass_count}" in svg


def test_reopened_tokens_are_open_before_they_are_committed_again() -> None:
    def step(index: int, ids: tuple[int, ...], chosen: tuple[int, ...], remasked: tuple[int, ...] = ()) -> Step:
        masked = tuple(i == 4 for i in ids)
        sure = tuple(0.0 if m else 0.5 for m in masked)
        return Step(0, index, ids, masked, sure, chosen, remasked, index + 1)

    shown = frames([step(0, (20, 4), (0,)), step(1, (4, 21), (1,), (0,)), step(2, (22, 21), (0,))], names)
    kinds = ["".join(cell.kind[0] for cell in frame.cells) for frame in shown]
    assert kinds == ["mm", "tm", "om", "ot", "tt"]
    assert [frame.cells[0].text for frame in shown] == ["", "t20", "", "", "t22"]
    assert "1 opened again" in shown[2].caption and "1 committed" in shown[3].caption


def test_text_is_escaped_and_nothing_runs_or_is_fetched() -> None:
    svg = draw(frames(real_steps("sequential"), lambda ids: ["<script>" for _ in ids]), original="</svg>&", **FINAL)  # type: ignore[arg-type]
    tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(svg).iter()}
    assert tags == {"svg", "title", "desc", "style", "rect", "g", "text"}
    assert "</svg>&" in {element.text for element in texts(svg)}
    assert not re.search(r"\bon\w+=|href|url\(|@import|https?://(?!www\.w3\.org/2000/svg)", svg)


def test_a_still_picture_shows_the_end_and_the_facts() -> None:
    """Programs that do not animate, and people who want no motion, see what is there at the end."""
    steps = real_steps("confidence", passes=4)
    svg = draw(frames(steps, names), original="the original", cosine=0.25, **FINAL)  # type: ignore[arg-type]
    assert "prefers-reduced-motion" in svg and "prefers-color-scheme" in svg and "infinite" in svg
    seen: list[str] = []
    for element in ET.fromstring(svg).iter(f"{SVG}g"):
        if element.get("opacity") == "1":
            seen += [part.text or "" for part in element.iter(f"{SVG}text")]
    assert {"it is <b> & done", "the original", "confidence 0.50   cosine 0.25"} <= set(seen)
    last = [name.replace("\x00", " ") for name in names(steps[-1].ids)]
    assert all(name in seen for name in last)


def test_keyframes_are_in_order() -> None:
    svg = draw(frames(real_steps("euler"), names), **FINAL)  # type: ignore[arg-type]
    rules = re.findall(r"@keyframes k\d+\{(.*)\}$", svg, re.MULTILINE)
    assert rules
    for rule in rules:
        times = [float(t) for t in re.findall(r"([\d.]+)%", rule)]
        assert times == sorted(times) and times[-1] == 100


def test_steps_of_several_drafts_are_refused() -> None:
    first = real_steps("sequential")[0]
    with pytest.raises(InputError, match="one draft"):
        frames([first, Step(1, 0, (5,), (False,), (1.0,), (0,), (), 1)], names)
    with pytest.raises(InputError, match="one draft"):
        frames([], names)


def test_frames_hold_the_end() -> None:
    shown: list[Frame] = frames(real_steps("sequential"), names, seconds=0.5, hold=3.0)
    assert [frame.seconds for frame in shown[:-1]] == [0.5] * (len(shown) - 1) and shown[-1].seconds == 3.0


@pytest.mark.parametrize("name", ["decode.svg", "decode-adaptive.svg"])
def test_the_pictures_of_the_docs_are_whole(name: str) -> None:
    svg = (DOCS / name).read_text(encoding="utf-8")
    assert len(texts(svg)) > 30 and "<script" not in svg
    assert all(0 <= extent(element)[0] and extent(element)[1] <= WIDTH for element in texts(svg))
    assert len(svg) < 100_000
