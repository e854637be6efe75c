"""An encoder of BERT's shape that reads token ids, with nothing but torch: for a device that keeps all its data.

Contents: `BertOnIds`, `bert_layer` (one layer, for torch.compile), `check_probes`.

Training on a GPU embeds crops of texts in every step. Strings would have to come back to the host for it, so this
encoder takes the ids that the denoiser learns, adds the two special tokens on the device, and never reads a value
there: its shapes depend on the width of the batch alone. It also travels without sentence-transformers
(`data/pack.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.encoders.identity import PROBES, EncoderIdentity
from unembed.errors import EncoderError, InputError

if TYPE_CHECKING:
    import numpy as np

    from unembed.encoders.protocol import Encoder

_NEVER = -30000.0  # finite in bf16: a row of a softmax never becomes NaN
_GELU = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # transformers' name -> torch's
_POOLING = ("mean", "cls")
_LINEAR = ("qkv", "out", "up", "down")
_LAYER = tuple(
    f"{part}.{kind}"
    for part in ("qkv", "out", "norm_attention", "up", "down", "norm_mlp")
    for kind in ("weight", "bias")
)
_CONFIG: dict[str, tuple[type, ...]] = {
    "layers": (int,),
    "heads": (int,),
    "eps": (float,),
    "gelu": (str,),
    "pooling": (str,),
    "normalise": (bool,),
    "cls_id": (int,),
    "sep_id": (int,),
}


def bert_layer(
    weights: tuple[Tensor, ...], x: Tensor, bias: Tensor | None, heads: int, eps: float, gelu: str
) -> Tensor:
    """One layer of BERT (arXiv 1810.04805): attention and MLP, each added and then normed.

    Args:
        weights: the layer's tensors: qkv (3d, d), out (d, d), norm, up (m, d), down (d, m), norm; weight and bias of
            each. The products are made in the dtype of the matrices.
        x: (B, n, d) float32.
        bias: (B, 1, 1, n) added to the attention scores, in the dtype of the matrices; None: all tokens see each other.
        heads: of the attention.
        eps: of the norms.
        gelu: "none" for the exact one, "tanh" for its approximation.

    Returns:
        (B, n, d) float32.
    """
    qkv, qkv_bias, out, out_bias, scale_a, shift_a, up, up_bias, down, down_bias, scale_m, shift_m = weights
    batch, n, d = x.shape
    low = x.to(qkv.dtype)
    # (B, n, 3d) -> three of (B, heads, n, d / heads): the rows of qkv hold all queries, then all keys, then all values
    q, k, v = F.linear(low, qkv, qkv_bias).view(batch, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    if x.device.type == "cpu":  # two plain products: the fused kernel takes four times as long on so few tokens
        scores = (q * (d // heads) ** -0.5) @ k.transpose(-1, -2)
        mixed = (scores if bias is None else scores + bias).softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    mixed = F.linear(mixed.transpose(1, 2).reshape(batch, n, d), out, out_bias)
    # sums and norms in float32: in bf16 the small components, which hold the order of words, would drown
    x = F.layer_norm(x + mixed.float(), (d,), scale_a, shift_a, eps)
    hidden = F.gelu(F.linear(x.to(up.dtype), up, up_bias), approximate=gelu)
    return F.layer_norm(x + F.linear(hidden, down, down_bias).float(), (d,), scale_m, shift_m, eps)


class BertOnIds:
    """Vectors of token ids.

    Attributes:
        layer: computes one layer; `torch.compile(bert_layer, dynamic=False)` may take its place.
        dimension: d, length of a vector.
        vocabulary: number of ids.
        longest: greatest number of ids of a text, special tokens not counted.
        dtype: of the layers' matrices.
        device: where the tensors are.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Use `build`, which checks what it is given."""
        self._config = dict(config)
        self._tensors = dict(tensors)
        self.layer: Callable[..., Tensor] = bert_layer
        self.vocabulary, self.dimension = self._tensors["words"].shape
        self.longest = len(self._tensors["positions"]) - 2
        self._stack: list[tuple[Tensor, ...]] = []
        self.to(self._tensors["words"].device, torch.float32)

    @classmethod
    def build(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BertOnIds:
        """Build from what `config()` and `state()` gave; floats of any dtype become float32.

        Raises:
            EncoderError: keys, values or shapes that are not those of a BERT.
        """
        known = {key: config.get(key) for key in _CONFIG}
        fits = set(config) == set(_CONFIG) and all(type(known[key]) in kinds for key, kinds in _CONFIG.items())
        if not fits or config["gelu"] not in _GELU.values() or config["pooling"] not in _POOLING:
            raise _foreign(f"its settings are {dict(config)}")
        shapes = _shapes(config, tensors)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != shapes:
            name = min(name for name in set(found) | set(shapes) if found.get(name) != shapes.get(name))
            raise _foreign(f"{name} has shape {found.get(name)}, not {shapes.get(name)}")
        return cls(config, tensors)

    @classmethod
    def from_encoder(cls, encoder: Encoder) -> BertOnIds:
        """Take the network out of a loaded encoder, by its modules, and compare it with the encoder on three probes.

        Args:
            encoder: a `SentenceTransformerEncoder` of a plain BERT with mean or CLS pooling, normalised or not, without
                a prompt.

        Raises:
            EncoderError: any other encoder.
        """
        from unembed.encoders.sentence_transformer import SentenceTransformerEncoder

        if not isinstance(encoder, SentenceTransformerEncoder):
            raise _refused(encoder, "it is not a sentence-transformers model")
        if encoder.prompt:
            raise _refused(encoder, f"it puts the prompt {encoder.prompt!r} before every text")
        modules: list[Any] = list(encoder._model.children())
        kinds = [type(m).__name__ if type(m).__module__.startswith("sentence_transformers.") else "?" for m in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise _refused(encoder, f"its modules are {', '.join(kinds)}")
        if encoder._model.truncate_dim is not None:
            raise _refused(encoder, "its vectors are cut")
        pooling = getattr(modules[1], "pooling_mode", None) or modules[1].get_pooling_mode_str()
        if pooling not in _POOLING:
            raise _refused(encoder, f"its pooling is {pooling!r}")
        network = getattr(modules[0], "auto_model", None)
        settings = getattr(network, "config", None)
        if type(network).__name__ != "BertModel" or settings is None:
            raise _refused(encoder, f"its network is {type(network).__name__}")
        kind, places = settings.hidden_act, getattr(settings, "position_embedding_type", "absolute")
        if kind not in _GELU or places != "absolute" or settings.is_decoder:
            raise _refused(encoder, f"its BERT has {kind!r}, {places} positions or a causal mask")
        tokenizer = encoder._counter
        plain, full = (
            [] if tokenizer is None else tokenizer.encode(PROBES[0], add_special_tokens=s).ids for s in (False, True)
        )
        if not plain or full[1:-1] != plain:
            raise _refused(encoder, "its tokenizer does not put one token before and one after a text")
        config = {
            "layers": int(settings.num_hidden_layers),
            "heads": int(settings.num_attention_heads),
            "eps": float(settings.layer_norm_eps),
            "gelu": _GELU[kind],
            "pooling": pooling,
            "normalise": "Normalize" in kinds or bool(encoder.normalise),
            "cls_id": int(full[0]),
            "sep_id": int(full[-1]),
        }
        built = cls.build(config, _taken(network, encoder._model.max_seq_length))

        def tokenize(texts: Sequence[str]) -> list[list[int]]:
            return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

        check_probes(built, encoder.identity, tokenize, 0.9999)
        return built

    def config(self) -> dict[str, Any]:
        """What `build` needs beside the tensors, as JSON values."""
        return dict(self._config)

    def state(self) -> dict[str, Tensor]:
        """All tensors by name: words (V, d), positions (P, d) with the segment added, norms and layers."""
        return dict(self._tensors)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> BertOnIds:
        """Move it, in place as a module does, and return it.

        Args:
            device: for all tensors.
            dtype: of the layers' matrices and their biases, float32 or bfloat16; the rest is float32.
        """
        self.device, self.dtype = torch.device(device), dtype
        for name, tensor in self._tensors.items():
            low = name.startswith("layers.") and name.split(".")[2] in _LINEAR
            self._tensors[name] = tensor.to(self.device, dtype if low else torch.float32)
        layers = range(self._config["layers"])
        self._stack = [tuple(self._tensors[f"layers.{i}.{part}"] for part in _LAYER) for i in layers]
        return self

    @torch.no_grad()
    def __call__(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed texts.

        Args:
            ids: (B, n) int64 without special tokens, n at most `longest`; what follows a text is not read.
            lengths: (B,) tokens of each text, 1 to n; None: every text has n, then nothing is padded or masked.

        Returns:
            (B, d) float32.

        Raises:
            InputError: n is above `longest`.
        """
        n = ids.shape[1]
        if n > self.longest:
            raise InputError(f"The texts are {n} tokens wide, the encoder reads {self.longest}.", "Cut the texts.")
        config, tensors = self._config, self._tensors
        full = F.pad(ids, (1, 1), value=config["sep_id"])  # (B, n + 2): [CLS], the text, [SEP]
        full[:, 0] = config["cls_id"]
        bias = inside = None
        if lengths is not None:
            place, end = torch.arange(n + 2, device=ids.device), lengths.unsqueeze(1) + 1  # end: the place of [SEP]
            inside = place <= end
            full = torch.where(place < end, full, config["sep_id"])  # any number may follow a text
            bias = self._bias(inside)
        x = tensors["words"][full] + tensors["positions"][: n + 2]
        x = F.layer_norm(x, (self.dimension,), tensors["norm.weight"], tensors["norm.bias"], config["eps"])
        for weights in self._stack:
            x = self.layer(weights, x, bias, config["heads"], config["eps"], config["gelu"])
        if config["pooling"] == "cls":
            vector = x[:, 0]
        elif inside is None or lengths is None:
            vector = x.mean(1)
        else:
            vector = (x * inside.unsqueeze(-1)).sum(1) / (lengths.unsqueeze(1) + 2)
        return F.normalize(vector, dim=1) if config["normalise"] else vector

    def _bias(self, inside: Tensor) -> Tensor:
        """(B, 1, 1, n) from (B, n): 0 inside a text, hardly any weight after it.

        Rows are stored a multiple of 8 apart, as the fused kernels want them; they would copy the bias in every layer.
        """
        batch, n = inside.shape
        store = torch.zeros(batch, 1, 1, -(-n // 8) * 8, dtype=self.dtype, device=inside.device)
        return store[..., :n].masked_fill_(~inside[:, None, None, :], _NEVER)


class _OnTexts:
    """A network behind `encode(texts)`, for a check."""

    def __init__(self, network: BertOnIds, tokenize: Callable[[Sequence[str]], list[list[int]]]) -> None:
        self._network, self._tokenize = network, tokenize

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts one by one: (n, d)."""
        network = self._network
        rows = [torch.tensor([ids[: network.longest]], device=network.device) for ids in self._tokenize(texts)]
        found: np.ndarray = torch.cat([network(row) for row in rows]).cpu().numpy()
        return found


def check_probes(
    network: BertOnIds,
    identity: EncoderIdentity,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    tolerance: float = 0.999,
) -> float:
    """Embed the probe texts of an identity and compare.

    Args:
        network: on any device.
        identity: of the encoder that it stands for.
        tokenize: texts to ids without special tokens.
        tolerance: least cosine.

    Returns:
        The least cosine.

    Raises:
        EncoderMismatchError: it makes other vectors.
    """
    return identity.check(_OnTexts(network, tokenize), tolerance)


def _shapes(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that the tensors of a BERT must have, given the sizes of three of them."""
    sizes = [tuple(tensors[name].shape) if name in tensors else () for name in ("words", "positions")]
    if any(len(size) != 2 for size in sizes):
        raise _foreign("it has no embeddings")
    (words, d), places = sizes[0], sizes[1][0]
    up = tensors.get("layers.0.up.weight")
    hidden = 0 if up is None else len(up)
    if config["heads"] < 1 or d % config["heads"] or places < 3 or not math.isfinite(config["eps"]):
        raise _foreign(f"{d} dimensions do not fit {config['heads']} heads, or there are only {places} positions")
    if not 0 <= min(config["cls_id"], config["sep_id"]) <= max(config["cls_id"], config["sep_id"]) < words:
        raise _foreign("its special tokens are not ids")
    shapes: dict[str, tuple[int, ...]] = {"words": (words, d), "positions": (places, d)}
    shapes |= {"norm.weight": (d,), "norm.bias": (d,)}
    linear = {"qkv": (3 * d, d), "out": (d, d), "up": (hidden, d), "down": (d, hidden)}
    layer: dict[str, tuple[int, ...]] = {part: (d,) for part in _LAYER}
    layer |= {f"{part}.weight": size for part, size in linear.items()}
    layer |= {f"{part}.bias": size[:1] for part, size in linear.items()}
    return shapes | {f"layers.{i}.{part}": size for i in range(config["layers"]) for part, size in layer.items()}


def _taken(network: Any, most: int | None) -> dict[str, Tensor]:
    """The tensors of a transformers `BertModel` under the names of this file; `most` positions are kept."""
    theirs: dict[str, Tensor] = {k: tensor.detach().float().cpu() for k, tensor in network.state_dict().items()}

    def of(name: str, kind: str) -> Tensor:
        return theirs[f"{name}.{kind}"]

    segment = of("embeddings.token_type_embeddings", "weight")[0]
    taken = {
        "words": of("embeddings.word_embeddings", "weight"),
        "positions": of("embeddings.position_embeddings", "weight")[:most] + segment,
    }
    for kind in ("weight", "bias"):
        taken[f"norm.{kind}"] = of("embeddings.LayerNorm", kind)
        for i in range(network.config.num_hidden_layers):
            layer = f"encoder.layer.{i}"
            parts = [of(f"{layer}.attention.self.{part}", kind) for part in ("query", "key", "value")]
            taken[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
            taken[f"layers.{i}.out.{kind}"] = of(f"{layer}.attention.output.dense", kind)
            taken[f"layers.{i}.norm_attention.{kind}"] = of(f"{layer}.attention.output.LayerNorm", kind)
            taken[f"layers.{i}.up.{kind}"] = of(f"{layer}.intermediate.dense", kind)
            taken[f"layers.{i}.down.{kind}"] = of(f"{layer}.output.dense", kind)
            taken[f"layers.{i}.norm_mlp.{kind}"] = of(f"{layer}.output.LayerNorm", kind)
    return taken


def _refused(encoder: Encoder, reason: str) -> EncoderError:
    return EncoderError(
        f"The encoder {encoder.name!r} cannot run on token ids: {reason}.",
        "Use a plain BERT with mean or CLS pooling and no prompt, such as minilm, or leave the encoder out.",
    )


def _foreign(reason: str) -> EncoderError:
    return EncoderError(f"The encoder's network cannot be built: {reason}.", "Restore the files that it comes from.")
