"""A BERT on token ids: the library's own vectors, whatever the padding, and clear refusals of all that is no BERT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.bert import small_bert
from unembed.data.tokenization import Tokenizer
from unembed.encoders.bert import BertOnIds, bert_layer, check_probes
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.minilm import load_minilm
from unembed.encoders.protocol import Encoder
from unembed.encoders.truncation import TruncatedEncoder
from unembed.errors import EncoderError, EncoderMismatchError, InputError

TEXTS = [
    "yes",
    "The cat sat on the mat.",
    "Is there a train to Lisbon tonight?",
    "Invoice 4417 was paid on 3 March, in two parts, by the uncle of the treasurer.",
    "She had never liked the sea; it took what it wanted and gave back what it did not.",
    "why?",
]


def tokens(encoder: Encoder, max_length: int = 32) -> tuple[Tensor, Tensor, list[str]]:
    """Ids (n, longest), lengths and cut texts of TEXTS; behind each text stands an id that must not matter."""
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    cut = [part for part in tokenizer.truncate(TEXTS, max_length) if part is not None]
    assert len(cut) == len(TEXTS) and min(len(part.ids) for part in cut) == 1
    lengths = torch.tensor([len(part.ids) for part in cut])
    ids = torch.full((len(cut), int(lengths.max())), 7)
    for row, part in enumerate(cut):
        ids[row, : len(part.ids)] = torch.tensor(part.ids)
    return ids, lengths, [part.text for part in cut]


def least_cosine(found: Tensor, want: np.ndarray) -> float:
    return float(torch.cosine_similarity(found, torch.from_numpy(want)).min())


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_minilm(device="cpu")


def test_minilm_on_ids_makes_the_librarys_vectors(minilm: Encoder) -> None:
    ids, lengths, texts = tokens(minilm)
    network, want = BertOnIds.from_encoder(minilm), minilm.encode(texts)
    found = network(ids, lengths)
    assert found.dtype == torch.float32 and found.shape == (len(texts), 384)
    assert least_cosine(found, want) > 0.99999
    np.testing.assert_allclose(found, want, atol=1e-5)
    for row, n in enumerate(lengths.tolist()):  # alone, without padding and without a mask
        np.testing.assert_allclose(network(ids[row : row + 1, :n])[0], found[row], atol=1e-6)
    assert (network.dimension, network.vocabulary, network.longest) == (384, 30522, 254)
    network.to("cpu", torch.bfloat16)
    low = network(ids[:3], lengths[:3])
    assert low.dtype == torch.float32 and least_cosine(low, want[:3]) > 0.999
    assert not torch.equal(low, found[:3])  # it is another arithmetic
    dtypes = {name: tensor.dtype for name, tensor in network.state().items()}
    assert dtypes["layers.0.qkv.weight"] == dtypes["layers.5.down.weight"] == torch.bfloat16
    assert dtypes["words"] == dtypes["norm.weight"] == dtypes["layers.0.norm_mlp.weight"] == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "cls", "normalise": False},
        {"normalise": False, "hidden_act": "gelu_new", "layer_norm_eps": 0.05},
        {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 24},
    ],
)
def test_what_differs_between_berts_is_read_from_the_modules(tmp_path: Path, options: dict[str, object]) -> None:
    encoder = small_bert(tmp_path, **options)  # type: ignore[arg-type]
    ids, lengths, texts = tokens(encoder)
    network = BertOnIds.from_encoder(encoder)
    np.testing.assert_allclose(network(ids, lengths), encoder.encode(texts), atol=2e-5)
    wider = torch.cat((ids, torch.full((len(ids), 5), 9)), dim=1)
    np.testing.assert_allclose(network(wider, lengths), network(ids, lengths), atol=1e-6)
    again = BertOnIds.build(network.config(), network.state())
    assert torch.equal(again(ids, lengths), network(ids, lengths))


def test_a_normalisation_that_was_asked_for_is_taken_over(tmp_path: Path) -> None:
    encoder = small_bert(tmp_path, normalise=False)
    encoder.normalise = True
    ids, lengths, texts = tokens(encoder)
    found = BertOnIds.from_encoder(encoder)(ids, lengths)
    np.testing.assert_allclose(found, encoder.encode(texts), atol=2e-5)
    np.testing.assert_allclose(found.norm(dim=1), 1, atol=1e-5)


def test_texts_up_to_the_librarys_own_limit_are_read(tmp_path: Path) -> None:
    encoder = small_bert(tmp_path, longest=12)
    network = BertOnIds.from_encoder(encoder)
    assert network.longest == 10
    ids, lengths, texts = tokens(encoder, max_length=10)
    np.testing.assert_allclose(network(ids, lengths), encoder.encode(texts), atol=2e-5)
    with pytest.raises(InputError, match="11 tokens wide, the encoder reads 10"):
        network(torch.ones(2, 11, dtype=torch.long))


def test_one_layer_can_be_compiled_and_shapes_depend_on_the_width_alone(tmp_path: Path) -> None:
    """Another order of lengths makes no new graph, and the compiled layer makes the same numbers."""
    network = BertOnIds.from_encoder(small_bert(tmp_path))
    ids, generator = torch.randint(5, 700, (8, 12)), torch.Generator().manual_seed(0)
    lengths = [torch.randint(1, 13, (8,), generator=generator) for _ in range(3)]
    want = [network(ids, part) for part in lengths]
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    network.layer = torch.compile(bert_layer, dynamic=False, backend=backend, fullgraph=True)
    for part, vectors in zip(lengths, want, strict=True):
        torch.testing.assert_close(network(ids, part), vectors)
    assert len(graphs) == 1


def test_nothing_is_read_from_the_device(tmp_path: Path) -> None:
    """On the meta device a value cannot be read: an `item()` or a shape that depends on lengths would raise."""
    network = BertOnIds.from_encoder(small_bert(tmp_path)).to("meta", torch.bfloat16)
    ids, lengths = torch.zeros(5, 9, dtype=torch.long, device="meta"), torch.ones(5, dtype=torch.long, device="meta")
    assert network(ids, lengths).shape == network(ids).shape == (5, 24)
    assert network(ids, lengths).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "roberta"}, "RobertaModel"),
        ({"kind": "dense"}, "Transformer, Pooling, Dense"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"hidden_act": "relu"}, "'relu'"),
    ],
)
def test_what_is_no_plain_bert_is_refused(tmp_path: Path, options: dict[str, object], reason: str) -> None:
    with pytest.raises(EncoderError, match=reason) as caught:
        BertOnIds.from_encoder(small_bert(tmp_path, **options))  # type: ignore[arg-type]
    assert "such as minilm" in caught.value.do


def test_prompts_cuts_and_foreign_encoders_are_refused(tmp_path: Path) -> None:
    encoder = small_bert(tmp_path)
    for other, reason in (
        (HashingEncoder(16), "not a sentence-transformers model"),
        (TruncatedEncoder(encoder, 8), "not a sentence-transformers model"),
    ):
        with pytest.raises(EncoderError, match=reason):
            BertOnIds.from_encoder(other)
    encoder.prompt = "query: "
    with pytest.raises(EncoderError, match="prompt 'query: '"):
        BertOnIds.from_encoder(encoder)
    encoder.prompt = ""
    encoder._model.truncate_dim = 8
    with pytest.raises(EncoderError, match="cut"):
        BertOnIds.from_encoder(encoder)


def test_a_network_of_other_weights_fails_the_probes(tmp_path: Path) -> None:
    encoder = small_bert(tmp_path)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    network = BertOnIds.from_encoder(encoder)
    assert check_probes(network, encoder.identity, tokenizer.encode) > 0.99999
    state = network.state()
    state["layers.1.qkv.weight"] = state["layers.1.qkv.weight"].flip(0)
    with pytest.raises(EncoderMismatchError):
        check_probes(BertOnIds.build(network.config(), state), encoder.identity, tokenizer.encode)


def test_tensors_and_settings_that_fit_no_bert_are_refused(tmp_path: Path) -> None:
    network = BertOnIds.from_encoder(small_bert(tmp_path))
    config, state = network.config(), network.state()
    without = {name: tensor for name, tensor in state.items() if name != "layers.1.up.bias"}
    for settings, tensors, reason in (
        (config, without, "layers.1.up.bias has shape None"),
        (config, {**state, "more": torch.zeros(2)}, "more has shape"),
        (config, {**state, "layers.0.out.weight": torch.zeros(24, 23)}, "layers.0.out.weight"),
        (config, {}, "no embeddings"),
        ({**config, "heads": 5}, state, "do not fit 5 heads"),
        ({**config, "heads": "3"}, state, "settings"),
        ({**config, "pooling": "max"}, state, "settings"),
        ({**config, "sep_id": 10**6}, state, "special tokens"),
        ({}, state, "settings"),
    ):
        with pytest.raises(EncoderError, match=reason):
            BertOnIds.build(settings, tensors)
