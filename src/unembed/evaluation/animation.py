"""One decode as an animated SVG: its real trace, drawn step by step. Contents: `Frame`, `Cell`, `frames`, `refined`,
`draw`, `animate`.

The file is self-contained: CSS keyframes, no script, no font, nothing fetched. It follows prefers-color-scheme, and
where motion is not wanted (prefers-reduced-motion), or by a program that cannot animate, its last frame is shown.
Confidence is written under each token and shown by the strength of its colour; a position that is opened again is
outlined.
"""

from __future__ import annotations

import contextlib
import itertools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from unembed.decoding.trace import Step
from unembed.errors import EncoderError, EncoderMismatchError, InputError
from unembed.metrics.cosine import row_cosine

if TYPE_CHECKING:
    from unembed.inverter import Inverter, Recovery

WIDTH = 760  # of the view box
_MARGIN, _GAP, _PAD = 24, 6, 7
_SIZE, _SMALL = 15, 10  # font sizes
_ADVANCE = 0.6  # width of a character over the font size, in about every monospace font
_ROW, _CELL = 56, 28  # height of a row of cells, of a cell
_FADE = 0.12  # seconds

_STYLE = """
svg{--bg:#fff;--fg:#1f2328;--dim:#59636e;--line:#d1d9e0;--mask:#e4e8ec;--sure:#0f766e;--open:#b45309}
@media (prefers-color-scheme:dark){svg{--bg:#0d1117;--fg:#e6edf3;--dim:#9198a1;--line:#3d444d;--mask:#262c36;
--sure:#2dd4bf;--open:#f0a030}}
text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:var(--fg)}
.d{fill:var(--dim)}.m{fill:var(--mask)}.o{fill:var(--mask);stroke:var(--open);stroke-width:2;stroke-dasharray:4 3}
.s{fill:var(--sure)}.a{animation-duration:%gs;animation-iteration-count:infinite;animation-timing-function:linear}
@media (prefers-reduced-motion:reduce){.a{animation:none}}
"""


@dataclass(frozen=True)
class Cell:
    """One position of the canvas in one frame.

    Attributes:
        kind: "mask", "open" (masked again by this step) or "token".
        text: the token; empty for masks.
        percent: confidence of the token, 0 to 100; None where it is not known.
    """

    kind: str
    text: str = ""
    percent: int | None = 0


@dataclass(frozen=True)
class Frame:
    """What is seen for some seconds.

    Attributes:
        seconds: how long.
        cells: the canvas from left to right; a left-to-right draft grows.
        caption: the pass and what it did.
    """

    seconds: float
    cells: tuple[Cell, ...]
    caption: str


def frames(
    steps: Sequence[Step], tokens: Callable[[Sequence[int]], list[str]], seconds: float = 0.8, hold: float = 5.0
) -> list[Frame]:
    """Turn the steps of one draft into frames: all masks, then each step, the last one held.

    A step that opens positions again has two frames: the open positions, then what was committed.

    Args:
        steps: of one draft, in order, as `Recovery.trace.steps` holds them.
        tokens: names the ids, such as `Tokenizer.tokens`.
        seconds: a step.
        hold: the last frame.

    Raises:
        InputError: there are no steps, or they are of several drafts.
    """
    steps = [step for step in steps if not step.final]
    if not steps or len({step.draft for step in steps}) > 1:
        raise InputError("An animation needs the steps of one draft.", "Invert with trace=True and pass trace.steps.")
    total = steps[-1].pass_count

    def cells(step: Step, opened: Sequence[int] = (), ahead: bool = False) -> tuple[Cell, ...]:
        out = []
        for place, name in enumerate(tokens(step.ids)):
            if ahead and place in step.chosen:
                out.append(Cell("mask"))
            elif step.masked[place]:
                out.append(Cell("open" if place in opened else "mask"))
            else:
                out.append(Cell("token", name, round(100 * step.confidences[place])))
        return tuple(out)

    found = [Frame(seconds, cells(steps[0], ahead=True), f"pass 0 of {total}: nothing but the vector")]
    for step in steps:
        name = f"pass {step.pass_count} of {total}: "
        if step.remasked:
            before = found[-1].cells
            shown = tuple(Cell("open") if i in step.remasked else cell for i, cell in enumerate(before))
            found.append(Frame(seconds, shown, f"{name}{len(step.remasked)} opened again"))
        done = (
            f"{len(step.chosen)} committed" if step.chosen else "nothing committed" if any(step.masked) else "the end"
        )
        found.append(Frame(seconds, cells(step, step.remasked), name + done))
    last = found.pop()
    return [*found, Frame(hold, last.cells, last.caption)]


def refined(
    shown: Sequence[Frame], found: Sequence[tuple[int, float, Sequence[str]]], seconds: float = 0.8
) -> list[Frame]:
    """Append the drafts that a refinement found, each nearer than those before; the last one is held.

    Args:
        shown: of the decode, as `frames` makes them.
        found: queries spent, cosine and tokens of each draft, in order.
        seconds: a draft.
    """
    if not found:
        return list(shown)
    parts = [replace(shown[-1], seconds=2 * seconds)]
    for queries, cosine, names in found:
        cells = tuple(Cell("token", name, None) for name in names)
        said = f"after {queries} {'query' if queries == 1 else 'queries'}: cosine {cosine:.2f}"
        parts.append(Frame(seconds, cells, said))
    return [*shown[:-1], *parts[:-1], replace(parts[-1], seconds=shown[-1].seconds)]


def draw(
    shown: Sequence[Frame],
    *,
    recovered: str,
    confidence: float | None,
    likelihood: float | None = None,
    original: str | None = None,
    cosine: float | None = None,
    title: str = "From one vector to a text",
) -> str:
    """Draw frames as an SVG document.

    Args:
        shown: as `frames` makes them.
        recovered: the text for display.
        confidence, likelihood: expected token_f1, and where it is None the mean probability of the tokens, 0 to 1.
        original: the true text, where it is known.
        cosine: of the recovered text's vector to the given one, where it was asked for.
        title: the first line.

    Returns:
        SVG 1.1 with CSS animations; every text is escaped.
    """
    starts = [0.0]
    for frame in shown:
        starts.append(starts[-1] + frame.seconds)
    names = _Names(starts[-1])
    places, bottom = _places(shown, top=58)
    body: list[str] = []
    for place, (x, y, width) in enumerate(places):
        states = [frame.cells[place] if place < len(frame.cells) else None for frame in shown]
        for first, last in _runs(states):
            state, before = states[first], states[first - 1] if first else None
            if state is not None:
                fades = state.text != (before.text if before else "")  # another number alone does not
                body.append(names.seen(starts[first], starts[last], _cell(state, x, y, width), fades))
    for first, last in _runs([frame.caption for frame in shown]):
        text = _text(shown[first].caption, WIDTH - _MARGIN, 34, _SMALL + 2, "d", "end")
        body.append(names.seen(starts[first], starts[last], text))
    trust = ("confidence", confidence) if confidence is not None else ("likelihood", likelihood)
    facts = [f"{name} {value:.2f}" for name, value in (trust, ("cosine", cosine)) if value is not None]
    y, end = bottom + 26, []
    for label, value in [("recovered", recovered)] + ([("original", original)] if original is not None else []):
        end.append(_text(label, _MARGIN, y, _SMALL + 2, "d"))
        for line in _wrap(value):
            end.append(_text(line, _MARGIN + 84, y, _SMALL + 3))
            y += 20
    end.append(_text("   ".join(facts), _MARGIN + 84, y, _SMALL + 3, "s"))
    body.append(names.seen(starts[-2], starts[-1], "".join(end)))
    height = y + 22
    said = escape(_clean(f"{recovered} ({facts[0]})" if facts else recovered))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
            'aria-labelledby="title desc">',
            f'<title id="title">{escape(_clean(title))}</title>',
            f'<desc id="desc">Tokens replace masks until this text appears: {said}</desc>',
            f"<style>{_STYLE % starts[-1]}{names.rules()}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8" '
            'style="fill:var(--bg);stroke:var(--line)"/>',
            _text(title, _MARGIN, 34, _SIZE),
            *body,
            "</svg>\n",
        ]
    )


def animate(inverter: Inverter, vector: Any, original: str | None = None, **options: Any) -> tuple[str, Recovery]:
    """Invert one vector and draw how it went.

    Args:
        inverter: with its checkpoint.
        vector: (d,) or (1, d).
        original: the true text, where it is known.
        options: of `Inverter.invert`.

    Returns:
        The SVG, and the recovery that it shows. The recovered text is sent to the encoder once, for the cosine, which
        is left out where the encoder cannot be loaded.

    Raises:
        InputError: as `Inverter.invert`, or more than one vector.
    """
    found = inverter.invert(vector, trace=True, **options)
    if len(found) != 1:
        raise InputError(f"{len(found)} vectors cannot be animated.", "Pass one vector.")
    chosen = {name: value for name, value in options.items() if name == "strategy"}
    recovery, strategy = found[0], inverter.resolve(chosen).strategy
    if recovery.trace is None or not recovery.trace.steps:
        raise InputError(f"The strategy {strategy} takes no steps that could be drawn.", "Use another strategy.")
    row = np.asarray(vector, dtype=np.float32).reshape(1, -1)
    cosine = None
    with contextlib.suppress(EncoderError, EncoderMismatchError):  # the picture does without
        again = inverter.encoder.encode([inverter.tokenizer.decode(recovery.token_ids)])
        cosine = float(row_cosine(row, again)[0])
    svg = draw(
        frames(recovery.trace.steps, inverter.tokenizer.tokens),
        recovered=recovery.text,
        confidence=recovery.confidence,
        likelihood=recovery.likelihood,
        original=original,
        cosine=cosine,
        title=f"{row.shape[1]} numbers become a text ({strategy})",
    )
    return svg, recovery


class _Names:
    """Keyframes by the time in which something is seen; equal times share one rule."""

    def __init__(self, total: float) -> None:
        self._total = total
        self._rules: dict[tuple[float, float, bool], str] = {}

    def seen(self, start: float, end: float, part: str, fades: bool = False) -> str:
        """Wrap a drawing so that it is seen from `start` to `end`; still pictures show what is there at the end."""
        if start == 0 and end == self._total:
            return part
        name = self._rules.setdefault((start, end, fades), f"k{len(self._rules)}")
        still = int(end == self._total)
        return f'<g class="a" opacity="{still}" style="animation-name:{name}">{part}</g>'

    def rules(self) -> str:
        """All keyframes as CSS."""
        out = []
        for (start, end, fades), name in self._rules.items():
            a, b = (100 * t / self._total for t in (start, end))
            fade = 100 * _FADE / self._total if fades else 0.001
            before = f"0%,{a:.3f}%{{opacity:0}}{a + fade:.3f}%{{opacity:1}}" if start else "0%{opacity:1}"
            after = (
                f"{b:.3f}%{{opacity:1}}{b + 0.001:.3f}%,100%{{opacity:0}}" if end < self._total else "100%{opacity:1}"
            )
            out.append(f"@keyframes {name}{{{before}{after}}}")
        return "\n".join(out)


def _runs(values: Sequence[Any]) -> list[tuple[int, int]]:
    """First and one past the last index of each run of equal values."""
    cuts = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return list(itertools.pairwise(cuts))


def _clean(text: str) -> str:
    """Replace what XML cannot hold."""
    return "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff" else " " for c in text)


def _columns(text: str) -> int:
    """Width in characters; East Asian wide ones count twice, combining ones not at all."""
    wide = sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
    return max(wide, 1)


def _text(text: str, x: float, y: float, size: float, kind: str = "", anchor: str = "", room: float = WIDTH) -> str:
    """One line of text whose width is fixed, whatever the font."""
    wanted = min(_columns(text) * size * _ADVANCE, room)
    marks = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}"{marks} textLength="{wanted:.1f}" '
        f'lengthAdjust="spacingAndGlyphs" xml:space="preserve">{escape(_clean(text))}</text>'
    )


def _places(shown: Sequence[Frame], top: float) -> tuple[list[tuple[float, float, float]], float]:
    """Left edge, upper edge and width of each position, in rows; and the lower edge of all."""
    longest = max(len(frame.cells) for frame in shown)
    places, x, y = [], float(_MARGIN), top
    for place in range(longest):
        texts = [frame.cells[place].text for frame in shown if place < len(frame.cells)]
        width = max(_columns(text) * _SIZE * _ADVANCE for text in texts) + 2 * _PAD
        width = min(max(width, 36.0), WIDTH - 2 * _MARGIN)
        if x > _MARGIN and x + width > WIDTH - _MARGIN:
            x, y = float(_MARGIN), y + _ROW
        places.append((x, y, width))
        x += width + _GAP
    return places, y + _ROW


def _cell(cell: Cell, x: float, y: float, width: float) -> str:
    """A mask as a block; a token on a colour as strong as its confidence, with the number under it."""
    box = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_CELL}" rx="5"'
    if cell.kind != "token":
        return f'{box} class="{cell.kind[0]}"/>'
    middle = x + width / 2
    token = _text(cell.text, middle, y + 19, _SIZE, anchor="middle", room=width - _PAD)
    if cell.percent is None:
        return f'{box} class="s" fill-opacity="0.25"/>{token}'
    number = _text(f"{cell.percent}%", middle, y + _CELL + 13, _SMALL, "d", "middle")
    return f'{box} class="s" fill-opacity="{0.06 + 0.0044 * cell.percent:.2f}"/>{token}{number}'


def _wrap(text: str) -> list[str]:
    """Lines that fit beside the labels; a word that is longer than a line is cut."""
    room = int((WIDTH - 2 * _MARGIN - 84) / ((_SMALL + 3) * _ADVANCE))
    lines, line = [], ""
    for word in _clean(text).split():
        while _columns(word) > room:
            free = room - _columns(line) - 1 if line else room
            keep = next((n for n in range(min(len(word), free), 0, -1) if _columns(word[:n]) <= free), 0)
            line, word = f"{line} {word[:keep]}".strip(), word[keep:]
            lines.append(line)
            line = ""
        if line and _columns(line) + 1 + _columns(word) > room:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip() if word else line
    return [*lines, line] if line or not lines else lines
