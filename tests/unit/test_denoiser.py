"""Laws of the denoiser: identity at the start, no look-ahead, padding invisible, one set of weights for both orders."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unembed.checkpoint.shipped import WEIGHTS
from unembed.errors import CheckpointError, InputError
from unembed.network import heads
from unembed.network.base import GIVEN, MASK, PREFIX
from unembed.network.block import Block
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser

V, D, LIMIT = 60, 16, 8
CONFIG = ModelConfig(
    vector_dim=D,
    vocab_size=V,
    width=32,
    layers=2,
    heads=4,
    max_length=LIMIT,
    causal=True,
    prefix_tokens=3,
    mask_id=3,
    eos_id=2,
    bos_id=1,
    pad_id=0,
)


def build(**changes: object) -> Denoiser:
    """A denoiser whose zero-initialised maps are filled, so that conditions matter."""
    torch.manual_seed(0)
    denoiser = Denoiser(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
        if denoiser.token_prior is not None:
            for buffer in denoiser.token_prior.buffers():
                if buffer.dtype == torch.int8:
                    buffer.random_(-40, 40)
                elif buffer.is_floating_point() and buffer.dim():
                    buffer.uniform_(0.0, 0.02)
            # A class that is never seen has no mean: the end token's score is 0.
            denoiser.token_prior.codes[CONFIG.eos_id] = 0
            denoiser.token_prior.square[CONFIG.eos_id] = 0
    return denoiser


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Ids (4, 8), states with masks and given tokens, vectors (4, 16)."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(4, V, (4, LIMIT), generator=g)
    states = torch.where(torch.rand(4, LIMIT, generator=g) < 0.5, MASK, GIVEN)
    return ids, states, torch.randn(4, D, generator=g)


VARIANTS = [
    {},
    {"canvas": "eos"},
    {"adaln": "factored", "adaln_rank": 4},
    {"prefix_tokens": 0},
    {"whiten": False},
    {"token_prior": True},
    {"embedding_dim": 12},
]


def test_a_new_block_is_the_identity() -> None:
    """AdaLN-Zero (2212.09748): gates start at zero."""
    torch.manual_seed(0)
    denoiser = Denoiser(CONFIG)
    modulation = denoiser.condition(torch.randn(4, D)).modulation
    assert not modulation.any()
    block = denoiser.blocks[0]
    assert isinstance(block, Block)
    x = torch.randn(4, 5, 32)
    assert torch.equal(block(x, modulation[:, 0])[0], x)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_switch_gives_finite_logits_and_gradients(changes: dict, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Each part can be switched on, its parameters learn, and banned ids are never likely."""
    ids, states, vectors = inputs
    denoiser = build(**changes)
    condition = denoiser.condition(vectors)
    rows = states == MASK
    logits = denoiser.logits(ids, states, condition, rows=rows)
    assert logits.shape == (int(rows.sum()), V)
    assert torch.isinf(logits[:, [0, 1, 3]]).all()
    assert torch.isinf(logits[:, 2]).all() == (denoiser.config.canvas == "length")
    finite = logits[:, 4:]
    assert torch.isfinite(finite).all()
    (finite.logsumexp(1).sum() + denoiser.length_log_probs(vectors)[:, 2].sum()).backward()
    silent = [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_what_stands_under_a_mask_is_not_read(changes: dict, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Changing the ids of masked positions changes nothing."""
    ids, states, vectors = inputs
    denoiser = build(**changes)
    condition = denoiser.condition(vectors)
    other = torch.where(states == MASK, (ids + 7) % V, ids)
    assert torch.allclose(denoiser.logits(ids, states, condition), denoiser.logits(other, states, condition))


@pytest.mark.parametrize("changes", [{}, {"prefix_tokens": 0}, {"token_prior": True}], ids=str)
def test_padding_gives_the_same_logits(changes: dict, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """A canvas of n is the same alone and padded beside a longer one, whatever stands in the padding."""
    ids, states, vectors = inputs
    denoiser = build(**changes)
    condition = denoiser.condition(vectors)
    alone = denoiser.logits(ids[:, :5], states[:, :5], condition)
    padded = denoiser.logits(ids, states, condition, lengths=torch.tensor([5, 5, 5, 5]))
    assert torch.allclose(alone[..., 4:], padded[:, :5, 4:], atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"prefix_tokens": 0}, {"token_prior": True}], ids=str)
def test_incremental_equals_parallel_causal(changes: dict, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Feeding tokens one by one through the key and value cache gives the logits of one causal pass."""
    ids, _, vectors = inputs
    denoiser = build(**changes)
    condition = denoiser.condition(vectors)
    shown = torch.cat((torch.full((4, 1), CONFIG.bos_id), ids[:, :-1]), 1)
    hidden = denoiser.hidden(shown, torch.full_like(shown, PREFIX), condition, causal=True)
    state = denoiser.start_causal(condition)
    for i in range(LIMIT):
        logits, state = denoiser.next_logits(shown[:, i], state)
        owner = torch.arange(4)
        expected = denoiser.token_logits(hidden[:, i], owner, condition, used=shown[:, : i + 1])
        assert torch.allclose(logits[:, 4:], expected[:, 4:], atol=1e-4)
        assert torch.isfinite(logits[:, CONFIG.eos_id]).all()
    swapped = state.select(torch.tensor([2, 0]))
    again, _ = denoiser.next_logits(ids[[2, 0], -1], swapped)
    straight, _ = denoiser.next_logits(ids[:, -1], state)
    assert torch.allclose(again, straight[[2, 0]], atol=1e-5)


def test_rows_scored_in_parts_are_the_rows_scored_at_once(
    inputs: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that fit the cache: four rows in parts of one, with the tokens that stand in each text already."""
    ids, _, vectors = inputs
    denoiser = build(token_prior=True)
    state = denoiser.start_causal(denoiser.condition(vectors))
    for i in range(3):
        whole, after = denoiser.next_logits(ids[:, i], state)
        with monkeypatch.context() as small:
            small.setitem(heads.LOGIT_BYTES, "cpu", 4)
            assert len(list(heads.row_parts(4, CONFIG.vocab_size, ids.device))) == 4
            parts, _ = denoiser.next_logits(ids[:, i], state)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
        state = after


def test_the_evidence_of_a_visible_token_is_spent(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """What the vector says for a token is not said again where the token stands in the text already."""
    ids, states, vectors = inputs
    denoiser = build(token_prior=True)
    condition = denoiser.condition(vectors)
    rows = states == MASK
    owner = rows.nonzero()[:, 0]
    hidden = denoiser.hidden(ids, states, condition)[rows]
    again = denoiser.token_logits(hidden, owner, condition)  # no token counts as seen
    difference = again - denoiser.logits(ids, states, condition, rows=rows)
    for i, text in enumerate(owner.tolist()):
        visible = ids[text][states[text] != MASK]
        changed = difference[i, 4:].abs() > 1e-6
        assert set((changed.nonzero().flatten() + 4).tolist()) <= set(visible.tolist())
        assert not len(visible) or changed.any()


def test_causal_rows_do_not_look_ahead(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Changing token i changes no row before i."""
    ids, _, vectors = inputs
    denoiser = build()
    condition = denoiser.condition(vectors)
    states = torch.full_like(ids, PREFIX)
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % V
    a = denoiser.hidden(ids, states, condition, causal=True)
    b = denoiser.hidden(other, states, condition, causal=True)
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.allclose(a[:, 5:], b[:, 5:])


def test_rows_of_a_gathered_table_give_the_same_hidden_state(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """The training step's way to embed ids is the plain one."""
    ids, states, vectors = inputs
    denoiser = build()
    condition = denoiser.condition(vectors)
    tokens, rows = ids.unique(return_inverse=True)
    table = nn.functional.embedding(tokens, denoiser.embedding.weight)
    plain = denoiser.hidden(ids, states, condition)
    assert torch.equal(plain, denoiser.hidden(ids, states, condition, table=table, rows=rows))


def test_left_to_right_without_causal_rows_is_refused() -> None:
    """One sentence on what is wrong, one on what to do."""
    denoiser = build(causal=False)
    with pytest.raises(InputError, match="causal rows"):
        denoiser.start_causal(denoiser.condition(torch.randn(1, D)))


@pytest.mark.parametrize("changes", [{"canvas": "fixed"}, {"adaln": "none"}, {"heads": 5}, {"layers": 0}], ids=str)
def test_shapes_that_cannot_be_built_are_refused(changes: dict) -> None:
    """A config is checked when it is made."""
    with pytest.raises(InputError):
        replace(CONFIG, **changes)


OLD = {**CONFIG.to_dict(), "position_prior": False, "candidates": 0, "prior_once": True}
"""What a checkpoint from before those parts were removed holds."""


def test_a_config_with_removed_parts_switched_off_is_read() -> None:
    """Also the shipped one, which has no time and no schedule yet."""
    assert ModelConfig.from_dict(OLD) == CONFIG
    shipped = json.loads((WEIGHTS / "minilm" / "config.json").read_text())["denoiser"]
    assert ModelConfig.from_dict(shipped).width == shipped["width"]


@pytest.mark.parametrize(
    "key, value",
    [
        ("position_prior", True),
        ("candidates", 32),
        ("prior_once", False),
        ("backbone", "bert"),
        ("adaln", "shared"),
        ("rotary", True),
    ],
)
def test_a_config_with_a_part_that_is_gone_is_refused(key: str, value: object) -> None:
    """The key stands in the first sentence, and the second says what to do."""
    with pytest.raises(CheckpointError, match=key) as caught:
        ModelConfig.from_dict({**OLD, key: value})
    assert "version of unembed" in caught.value.do


def test_parameter_counts_add_up() -> None:
    """Blocks and vocabulary are parts of the total."""
    denoiser = build()
    counts = denoiser.parameter_counts()
    assert counts["vocabulary"] == V * 32 + V
    assert counts["blocks"] + counts["vocabulary"] < counts["total"]
