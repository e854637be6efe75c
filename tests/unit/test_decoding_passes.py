"""`passes`: a decode that hands control back after each pass, and the alternatives that its steps may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.decoding.config import CAUSAL_STRATEGIES, STRATEGIES, DecodeConfig
from unembed.decoding.loop import decode, passes
from unembed.decoding.trace import Draft, Step
from unembed.network.denoiser import Denoiser

NETWORK = [name for name in STRATEGIES if name not in ("prior", "corrector")]


def run(
    denoiser: Denoiser, vectors: torch.Tensor, config: DecodeConfig, **more: object
) -> tuple[list[Draft], list[list[Step]]]:
    work = passes(denoiser, vectors, config, **more)  # type: ignore[arg-type]
    found = []
    while True:
        try:
            found.append(next(work))
        except StopIteration as end:
            return end.value, found


@pytest.mark.parametrize("strategy", NETWORK)
def test_passes_end_in_the_drafts_of_decode(strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(max_length=9), some_vectors(3)
    config = DecodeConfig(strategy=strategy, passes=4, lengths=2)
    drafts, steps = run(denoiser, vectors, config)
    assert drafts == decode(denoiser, vectors, config)
    assert not any(steps), "steps were not asked for"
    assert len(steps) >= 4 or strategy not in ("euler-remask", "remdm"), "control comes back after each pass"


def test_a_left_to_right_draft_hands_control_back_after_each_token() -> None:
    denoiser, vectors = tiny_denoiser(max_length=9), some_vectors(2)
    drafts, steps = run(denoiser, vectors, DecodeConfig(strategy="left-to-right", beam=3))
    assert len(steps) >= max(draft.length for draft in drafts)


@pytest.mark.parametrize("canvas", ["length", "eos"])
@pytest.mark.parametrize("strategy", NETWORK)
@pytest.mark.parametrize("beam", [1, 3])
def test_alternatives_are_the_likeliest_tokens_of_the_pass(strategy: str, canvas: str, beam: int) -> None:
    if beam > 1 and strategy not in CAUSAL_STRATEGIES:
        return
    denoiser, vectors = tiny_denoiser(canvas, max_length=7), some_vectors(2)
    config = DecodeConfig(strategy=strategy, passes=3, lengths=1, beam=beam)
    drafts, _ = run(denoiser, vectors, config, trace=True, top=4)
    plain, _ = run(denoiser, vectors, config, trace=True)
    assert drafts == plain, "looking on changes nothing"
    checked = 0
    for draft, other in zip(drafts, plain, strict=True):
        assert draft.trace is not None and other.trace is not None
        assert [replace(step, alternatives=()) for step in draft.trace.steps] == list(other.trace.steps)
        for step in draft.trace.steps:
            assert len(step.alternatives) == len(step.ids)
            for place, likely in enumerate(step.alternatives):
                shares = [share for _, share in likely]
                assert shares == sorted(shares, reverse=True) and sum(shares) < 1 + 1e-5
                if likely and place in step.chosen and step.confidences[place] < 1:
                    by_token = dict(likely)
                    if step.ids[place] in by_token:  # a beam may have taken one that is less likely
                        assert by_token[step.ids[place]] == pytest.approx(step.confidences[place], abs=1e-5)
                    if beam == 1:
                        assert likely[0][0] == step.ids[place], "greedy takes the first"
                    checked += 1
    assert checked > 4


@pytest.mark.parametrize("strategy", CAUSAL_STRATEGIES)
def test_a_beam_shows_its_leading_hypothesis_while_it_grows(strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(max_length=9), some_vectors(1)
    config = DecodeConfig(strategy=strategy, beam=3, passes=2)
    drafts, steps = run(denoiser, vectors, config, trace=True, top=3, live=True)
    plain, _ = run(denoiser, vectors, config, trace=True, top=3)
    assert drafts == plain and drafts[0].trace == plain[0].trace, "a preview is no part of a trace"
    flat = [step for part in steps for step in part]
    previews = [step for step in flat if step.preview]
    assert previews and flat[: len(previews)] == previews, "they come first"
    assert [step.index for step in previews] == list(range(len(previews)))
    assert all(len(step.ids) == len(step.alternatives) <= step.index + 1 for step in previews)
    assert len(previews[0].ids) == 1 and previews[0].alternatives[0]


def test_alternatives_of_a_beam_belong_to_its_own_hypothesis() -> None:
    """Decoding a beam's text again, token by token, gives the same distributions."""
    denoiser, vectors = tiny_denoiser(max_length=7, seed=3), some_vectors(1)
    config = DecodeConfig(strategy="left-to-right", beam=4)
    drafts, _ = run(denoiser, vectors, config, trace=True, top=24)
    draft = drafts[0]
    assert draft.trace is not None
    state = denoiser.start_causal(denoiser.condition(vectors))
    last = torch.tensor([denoiser.config.bos_id])
    for place, token in enumerate(draft.ids):
        with torch.inference_mode():
            logits, state = denoiser.next_logits(last, state)
            if place == 0:
                logits[:, denoiser.config.eos_id] = -torch.inf
        share = logits.softmax(-1)[0]
        likely = draft.trace.steps[place].alternatives[place]
        assert likely, place
        for other, found in likely:
            assert found == pytest.approx(float(share[other]), abs=1e-5)
        last = torch.tensor([token])
