"""A denoiser that starts from a BERT: the same numbers where nothing is added, and clear refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unembed.errors import RecipeError
from unembed.model.denoiser import GIVEN, MASK, PREFIX, Denoiser, DenoiserConfig
from unembed.model.transplant import layer_choice, transplant_bert

V, D, LIMIT = 60, 16, 8
CONFIG = DenoiserConfig(
    vector_dim=D,
    vocab_size=V,
    backbone="bert",
    width=32,
    layers=3,
    heads=4,
    mlp=48,
    limit=LIMIT,
    causal=True,
    prefix_tokens=0,
    mask_id=3,
    eos_id=2,
    bos_id=1,
    pad_id=0,
)


@pytest.fixture(scope="module")
def bert() -> torch.nn.Module:
    """A small BERT with random weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        pad_token_id=0,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def transplanted(bert: torch.nn.Module, **changes: object) -> Denoiser:
    """A denoiser with the BERT's layers."""
    torch.manual_seed(1)
    denoiser = Denoiser(replace(CONFIG, **changes)).eval()
    transplant_bert(denoiser, bert.state_dict())
    return denoiser


def hidden(denoiser: Denoiser, ids: Tensor, states: Tensor, causal: bool = False) -> Tensor:
    """Last hidden rows; the modulation is still zero, so the vector says nothing."""
    return denoiser.hidden(ids, states, denoiser.condition(torch.randn(len(ids), D)), causal=causal)


@torch.no_grad()
def test_without_modulation_it_is_the_encoder(bert: torch.nn.Module) -> None:
    """Token states equal BERT's own for texts behind [CLS], masks included, up to the last norm without gains."""
    denoiser = transplanted(bert)
    ids = torch.randint(4, V, (5, LIMIT))
    masked = torch.rand(5, LIMIT) < 0.4
    own = bert(ids.masked_fill(masked, CONFIG.mask_id), position_ids=torch.arange(1, LIMIT + 1).expand(5, -1))
    expected = torch.nn.functional.layer_norm(own.last_hidden_state, (32,))
    found = hidden(denoiser, ids, torch.where(masked, MASK, GIVEN))
    assert torch.allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_causal_rows_stand_where_bert_had_the_token(bert: torch.nn.Module) -> None:
    """A causal row holds the token before: the begin token at BERT's position 0, the first word at 1."""
    denoiser = transplanted(bert)
    ids = torch.cat((torch.full((2, 1), CONFIG.bos_id), torch.randint(4, V, (2, LIMIT - 1))), dim=1)
    look = torch.ones(LIMIT, LIMIT).tril()[None, None].expand(2, 1, -1, -1)
    embedded = bert.embeddings(ids)
    bias = (1.0 - look) * -1e9
    x = embedded
    for layer in bert.encoder.layer:
        out = layer(x, bias)
        x = out[0] if isinstance(out, tuple) else out
    expected = torch.nn.functional.layer_norm(x, (32,))
    found = hidden(denoiser, ids, torch.full_like(ids, PREFIX), causal=True)
    assert torch.allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_incremental_rows_equal_the_whole_pass(bert: torch.nn.Module) -> None:
    """Left to right, token by token, as in one causal pass."""
    denoiser = transplanted(bert, prefix_tokens=2)
    vectors = torch.randn(3, D)
    condition = denoiser.condition(vectors)
    ids = torch.cat((torch.full((3, 1), CONFIG.bos_id), torch.randint(4, V, (3, 4))), dim=1)
    whole = denoiser.hidden(ids, torch.full_like(ids, PREFIX), condition, causal=True)
    state = denoiser.start_causal(condition)
    for i in range(ids.shape[1]):
        logits, state = denoiser.next_logits(ids[:, i], state)
        expected = denoiser.token_logits(whole[:, i], torch.arange(3), condition)
        free = ~denoiser.banned
        assert torch.allclose(logits[:, free], expected[:, free], atol=1e-4)


def test_layers_are_spread_from_first_to_last() -> None:
    """Four of six keep both ends."""
    assert layer_choice(6, 6) == [0, 1, 2, 3, 4, 5]
    assert layer_choice(6, 4) == [0, 2, 3, 5]
    assert layer_choice(6, 1) == [5]
    with pytest.raises(RecipeError, match="asks for 7 layers"):
        layer_choice(6, 7)


@pytest.mark.parametrize("changes", [{"width": 16}, {"mlp": 64}, {"vocab_size": 61}, {"limit": 15}], ids=str)
def test_shapes_that_do_not_fit_are_refused(bert: torch.nn.Module, changes: dict[str, int]) -> None:
    """What to set is said."""
    with pytest.raises(RecipeError) as caught:
        transplanted(bert, **changes)
    assert "model." in caught.value.do or "data.limit" in caught.value.do
