"""Laws of the decode loop that hold for every strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.decoding.config import CAUSAL_STRATEGIES, DecodeConfig
from unembed.decoding.config import STRATEGIES as EVERY
from unembed.decoding.loop import decode, stream
from unembed.decoding.trace import Draft, Step
from unembed.errors import InputError

STRATEGIES = [name for name in EVERY if name != "prior"]  # it takes no pass: test_prior_strategy.py
PARALLEL = [name for name in STRATEGIES if name not in CAUSAL_STRATEGIES]
EXTRA: dict[str, dict[str, object]] = {"euler-remask": {"remask": 0.3}, "remdm": {"remask": 0.3}}
CANVASES = ["length", "eos"]
SOME = (*range(1, 13), 16, 24, 31, 32, 33, 34, 40)


def config_of(strategy: str, **options: object) -> DecodeConfig:
    return DecodeConfig(**{"strategy": strategy, "lengths": 1, **EXTRA.get(strategy, {}), **options})


def assert_whole(draft: Draft, denoiser: torch.nn.Module) -> None:
    c = denoiser.config
    assert not {c.mask_id, c.bos_id, c.pad_id, c.eos_id} & set(draft.ids)
    assert draft.length == len(draft.ids) == len(draft.token_confidence) >= 1
    assert all(0 < p <= 1 for p in draft.token_confidence)


@pytest.mark.parametrize("numbers", [SOME, pytest.param(range(1, 41), marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("strategy", PARALLEL)
def test_no_mask_is_left_for_any_length_and_any_number_of_passes(strategy: str, numbers: Sequence[int]) -> None:
    denoiser, vectors = tiny_denoiser(max_length=33), some_vectors(33)
    lengths = torch.arange(1, 34)
    for passes in numbers:
        drafts = decode(denoiser, vectors, config_of(strategy, passes=passes), known_lengths=lengths)
        for draft, n in zip(drafts, lengths.tolist(), strict=True):
            assert_whole(draft, denoiser)
            assert draft.length == n
            assert draft.passes <= passes


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", [*PARALLEL, "draft-correct"])
def test_no_mask_is_left_with_lengths_samples_and_learnt_ends(canvas: str, strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(canvas, max_length=12), some_vectors(6)
    for passes in (1, 2, 3, 5, 7, 12, 13, 20):
        for draft in decode(
            denoiser, vectors, config_of(strategy, passes=passes, lengths=2, samples=2, temperature=0.8)
        ):
            for each in (draft, *draft.alternatives):
                assert_whole(each, denoiser)


@pytest.mark.parametrize("strategy", PARALLEL)
def test_steps_that_do_not_divide_the_length_leave_no_mask(strategy: str) -> None:
    """The paper's mistake 6: 12 steps filled 24 of 32 positions."""
    denoiser = tiny_denoiser(max_length=32)
    draft = decode(denoiser, some_vectors(1), config_of(strategy, passes=12), known_lengths=torch.tensor([32]))[0]
    assert draft.length == 32
    assert denoiser.config.mask_id not in draft.ids


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_given_tokens_are_never_changed(canvas: str, strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(canvas, max_length=12), some_vectors(8)
    given = torch.full((8, 7), -1)
    given[:, 2], given[3, 0], given[4, 6], given[5] = 9, 11, 17, torch.arange(8, 15)
    for passes in (1, 3, 9):
        options = {"lengths": 3, "remask_rate": 1.0, "temperature": 0.5}
        for row, draft in enumerate(
            decode(denoiser, vectors, config_of(strategy, passes=passes, **options), given=given)
        ):
            for each in (draft, *draft.alternatives):
                assert_whole(each, denoiser)
                for position, token in enumerate(given[row].tolist()):
                    if token >= 0:
                        assert each.ids[position] == token
                        assert each.token_confidence[position] == 1


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_seed_fixes_the_result_and_the_rows_beside_do_not_matter(canvas: str, strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(canvas, max_length=10), some_vectors(7)
    for options in ({}, {"temperature": 0.9, "samples": 2, "seed": 5}):
        config = config_of(strategy, passes=4, **{"lengths": 2, **options})
        whole = decode(denoiser, vectors, config)
        again = decode(denoiser, vectors, config)
        assert [d.ids for d in whole] == [d.ids for d in again]
        shuffled = decode(denoiser, vectors[[5, 2, 0]], config)
        alone = [decode(denoiser, vectors[i : i + 1], config)[0] for i in (5, 2, 0)]
        for many, few, one in zip([whole[i] for i in (5, 2, 0)], shuffled, alone, strict=True):
            assert many.ids == few.ids == one.ids
            assert many.passes == few.passes == one.passes
            assert many.score == pytest.approx(one.score, abs=1e-4)


def test_another_seed_gives_other_samples() -> None:
    denoiser, vectors = tiny_denoiser(max_length=10), some_vectors(5)
    one, two = (decode(denoiser, vectors, DecodeConfig(temperature=1.0, seed=s)) for s in (0, 1))
    assert [d.ids for d in one] != [d.ids for d in two]
    drawn = [
        decode(denoiser, vectors, DecodeConfig(temperature=1.0), torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    ]
    assert [d.ids for d in drawn[0]] == [d.ids for d in drawn[1]] != [d.ids for d in drawn[2]]


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_passes_counted_are_passes_made(canvas: str, strategy: str, guidance: float) -> None:
    denoiser, vectors = tiny_denoiser(canvas, max_length=10, null_vector=guidance != 1), some_vectors(4)
    guidance = 1.0 if strategy == "left-to-right" else guidance  # the causal writer knows none
    config = config_of(strategy, passes=5, lengths=2, samples=2, temperature=0.7, guidance=guidance)
    drafts = decode(denoiser, vectors, config)
    assert sum(d.spent for d in drafts) == denoiser.rows_run
    for draft in drafts:
        assert draft.spent == draft.passes + sum(other.passes for other in draft.alternatives)


def test_passes_of_pruned_beams_are_counted() -> None:
    denoiser, vectors = tiny_denoiser(max_length=10), some_vectors(4)
    drafts = decode(denoiser, vectors, DecodeConfig(strategy="left-to-right", beam=3))
    assert sum(d.spent for d in drafts) == denoiser.rows_run


def check_trace(steps: list[Step], mask_id: int) -> None:
    """Every commit and every re-masking must be in the trace, and nothing else may change."""
    before: Step | None = None
    for number, step in enumerate(steps):
        n = len(step.ids)
        assert step.index == number
        assert len(step.masked) == len(step.confidences) == n
        was = [True] * n if before is None else [*before.masked, *[True] * (n - len(before.masked))]
        for i in range(n):
            expected = (was[i] or i in step.remasked) and i not in step.chosen
            assert step.masked[i] == expected
            assert (step.ids[i] == mask_id) == step.masked[i]
            assert (step.confidences[i] == 0) == step.masked[i]
            if before is not None and i < len(before.ids) and i not in (*step.chosen, *step.remasked):
                assert step.ids[i] == before.ids[i]
        assert before is None or step.pass_count > before.pass_count
        before = step
    assert before is not None and not any(before.masked)


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_the_trace_tells_every_change(canvas: str, strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(canvas, max_length=11), some_vectors(5)
    config = config_of(strategy, passes=6, lengths=2)
    reopened = 0
    for draft in decode(denoiser, vectors, config, trace=True):
        for each in (draft, *draft.alternatives):
            assert each.trace is not None
            check_trace(list(each.trace.steps), denoiser.config.mask_id)
            assert each.trace.passes == each.passes
            assert each.trace.steps[-1].ids[: each.length] == each.ids
            reopened += sum(len(step.remasked) for step in each.trace.steps)
    assert (reopened > 0) == (strategy in ("euler-remask", "two-stage", "remdm", "draft-correct"))
    assert all(d.trace is None for d in decode(denoiser, vectors, config))


@pytest.mark.parametrize("canvas", CANVASES)
def test_beams_have_traces_too(canvas: str) -> None:
    denoiser = tiny_denoiser(canvas, max_length=8)
    for draft in decode(denoiser, some_vectors(3), DecodeConfig(strategy="left-to-right", beam=3), trace=True):
        for each in (draft, *draft.alternatives):
            assert each.trace is not None
            check_trace(list(each.trace.steps), denoiser.config.mask_id)
            assert each.trace.passes == each.passes
            assert each.trace.steps[-1].ids[: each.length] == each.ids


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_stream_yields_the_steps_of_the_same_decode(strategy: str) -> None:
    denoiser, vectors = tiny_denoiser(max_length=9), some_vectors(1)
    config = config_of(strategy, passes=5, lengths=2)
    draft = decode(denoiser, vectors, config, trace=True)[0]
    steps = list(stream(denoiser, vectors[0], config))
    assert [s.final for s in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].ids == draft.ids and steps[-1].confidences == draft.token_confidence
    assert draft.trace is not None
    assert [s for s in steps[:-1] if s.draft == steps[-1].draft] == list(draft.trace.steps)


def test_a_stream_is_lazy() -> None:
    denoiser = tiny_denoiser(max_length=9)
    steps = stream(denoiser, some_vectors(1)[0], config_of("sequential", passes=9, lengths=1))
    assert denoiser.rows_run == 0
    next(steps)
    assert denoiser.rows_run == 1


def test_easy_rows_leave_the_batch_and_cost_less() -> None:
    denoiser, vectors = tiny_denoiser(max_length=32), some_vectors(3)
    drafts = decode(denoiser, vectors, config_of("sequential", passes=32), known_lengths=torch.tensor([2, 30, 7]))
    assert [d.passes for d in drafts] == [2, 30, 7]
    assert denoiser.rows_run == 39


def test_a_network_that_is_sure_needs_few_passes() -> None:
    denoiser, vectors = tiny_denoiser(max_length=16), some_vectors(4)
    with torch.no_grad():
        denoiser.head.bias[9] = 60.0
    sure = decode(denoiser, vectors, config_of("adaptive", passes=16), known_lengths=torch.full((4,), 16))
    assert [d.passes for d in sure] == [1] * 4
    assert all(set(d.ids) == {9} for d in sure)


def test_the_network_is_left_in_its_mode() -> None:
    denoiser = tiny_denoiser(max_length=6, dropout=0.5).train()
    one, two = (decode(denoiser, some_vectors(3), DecodeConfig()) for _ in range(2))
    assert denoiser.training
    assert [d.ids for d in one] == [d.ids for d in two]


def test_no_vectors_give_no_drafts() -> None:
    assert decode(tiny_denoiser(max_length=6), torch.zeros(0, 6)) == []


def test_causal_strategies_need_causal_rows() -> None:
    denoiser = tiny_denoiser(max_length=6, causal=False)
    for strategy in CAUSAL_STRATEGIES:
        with pytest.raises(InputError, match="causal rows"):
            decode(denoiser, some_vectors(2), DecodeConfig(strategy=strategy))


def test_given_tokens_that_cannot_stand_are_refused() -> None:
    denoiser, vectors = tiny_denoiser(max_length=6), some_vectors(2)
    for given in (torch.tensor([[4], [9]]), torch.tensor([[9], [99]]), torch.full((3, 2), 9), torch.full((2, 7), 9)):
        with pytest.raises(InputError):
            decode(denoiser, vectors, DecodeConfig(), given=given)


def test_known_lengths_that_cannot_be_are_refused() -> None:
    vectors, given = some_vectors(2), torch.tensor([[9, -1, 9], [-1, -1, -1]])
    for lengths in ([0, 3], [3, 7], [2, 6]):
        with pytest.raises(InputError, match="known length"):
            decode(tiny_denoiser(max_length=6), vectors, given=given, known_lengths=torch.tensor(lengths))
    with pytest.raises(InputError, match="the end"):
        decode(tiny_denoiser("eos", max_length=6), vectors, known_lengths=torch.tensor([3, 3]))


def test_more_lengths_than_there_are_means_all() -> None:
    denoiser, given = tiny_denoiser(max_length=6), torch.tensor([[9, -1, 9], [-1, -1, -1]])
    draft = decode(denoiser, some_vectors(1), DecodeConfig(lengths=50))[0]
    assert sorted([draft.length, *(a.length for a in draft.alternatives)]) == [1, 2, 3, 4, 5, 6]
    bound, free = decode(denoiser, some_vectors(2), DecodeConfig(lengths=50), given=given)
    assert sorted([bound.length, *(a.length for a in bound.alternatives)]) == [3, 4, 5, 6]
    assert len(free.alternatives) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "nothing"},
        {"passes": 0},
        {"passes": 2.5},
        {"temperature": float("nan")},
        {"temperature": -1},
        {"lengths": True},
        {"choose": "best"},
        {"remask": 1.5},
        {"beam": 4},
        {"strategy": "left-to-right", "beam": 4, "temperature": 1.0},
        {"samples": 3},
        {"seed": -1},
        {"seed": 2**70},
        {"passes": 10**9},
        {"samples": 10**9, "temperature": 1.0},
        {"beam": 10**6, "strategy": "left-to-right"},
        {"temperature": 10**400},
        {"length_weight": float("nan")},
        {"length_weight": 1e308},
        {"length_power": float("nan")},
        {"entropy_bound": float("inf")},
        {"student_weight": float("inf")},
        {"guidance": float("nan")},
        {"guidance": 2.0, "strategy": "left-to-right"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        DecodeConfig(**options)
    assert caught.value.what and caught.value.do


def test_configs_are_frozen() -> None:
    config = DecodeConfig()
    with pytest.raises(AttributeError):
        config.passes = 3
    assert replace(config, passes=3).passes == 3
