"""Start a denoiser from the layers of the encoder that it inverts. Contents: `transplant_bert`.

An encoder that is a BERT already knows how the words of its language go together; a denoiser of the same shape starts
from that knowledge instead of from noise (docs/log.md: what it brings at equal wall-clock). Without a modulation and
a memory the transplanted network computes the encoder's own token states.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unembed.errors import RecipeError
from unembed.model.denoiser import MASK, Denoiser
from unembed.model.post_norm import PostNormBlock


def layer_choice(have: int, wanted: int) -> list[int]:
    """Which of `have` layers a network of `wanted` layers takes: all, or evenly spread with the first and the last.

    Raises:
        RecipeError: more layers are wanted than there are.
    """
    if wanted > have:
        raise RecipeError(
            f"The recipe asks for {wanted} layers, the encoder has {have} to start from.",
            "Set model.layers to at most that, or model.init_blocks = false.",
        )
    if wanted == 1:
        return [have - 1]
    return [round(i * (have - 1) / (wanted - 1)) for i in range(wanted)]


@torch.no_grad()
def transplant_bert(denoiser: Denoiser, state: Mapping[str, Tensor]) -> list[int]:
    """Copy embeddings, positions and layers of a BERT into a denoiser with the backbone "bert".

    The state of a masked position becomes BERT's [MASK] embedding, text position i takes BERT's position i + 1 (behind
    [CLS]), and the segment embedding is added to the positions.

    Args:
        denoiser: of the same width, MLP and vocabulary; its other parts are left as they are.
        state: BERT's tensors by their names in transformers (`embeddings....`, `encoder.layer.0....`).

    Returns:
        The layers taken.

    Raises:
        RecipeError: shapes that do not fit.
    """
    config = denoiser.config
    have = 1 + max((int(k.split(".")[2]) for k in state if k.startswith("encoder.layer.")), default=-1)
    layers = layer_choice(have, config.layers)
    words = state["embeddings.word_embeddings.weight"]
    positions = state["embeddings.position_embeddings.weight"]
    mlp = state["encoder.layer.0.intermediate.dense.weight"].shape[0] if have else 0
    found = (tuple(words.shape), mlp)
    if found != (tuple(denoiser.embedding.weight.shape), config.mlp or 4 * config.width):
        raise RecipeError(
            f"The encoder's layers (vocabulary and width {found[0]}, MLP {mlp}) do not fit the recipe's network.",
            f"Set model.width = {words.shape[1]} and model.mlp = {mlp}, or model.init_blocks = false.",
        )
    count = denoiser.position.num_embeddings
    if len(positions) < count:
        raise RecipeError(
            f"The encoder knows {len(positions)} positions, the recipe's limit needs {count}.", "Lower data.limit."
        )
    denoiser.embedding.weight.copy_(words)
    denoiser.position.weight.copy_(positions[:count] + state["embeddings.token_type_embeddings.weight"][0])
    denoiser.state.weight.zero_()
    denoiser.state.weight[MASK] = words[config.mask_id]
    if denoiser.position_from_end is not None:
        denoiser.position_from_end.weight.zero_()
    _copy(denoiser.input_norm, state, "embeddings.LayerNorm")
    for block, index in zip(denoiser.blocks, layers, strict=True):
        assert isinstance(block, PostNormBlock)
        name = f"encoder.layer.{index}"
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        block.attention.qkv.weight.copy_(torch.cat([state[f"{p}.weight"] for p in parts]))
        block.attention.qkv.bias.copy_(torch.cat([state[f"{p}.bias"] for p in parts]))
        _copy(block.attention.out, state, f"{name}.attention.output.dense")
        _copy(block.norm_attention, state, f"{name}.attention.output.LayerNorm")
        _copy(block.up, state, f"{name}.intermediate.dense")
        _copy(block.down, state, f"{name}.output.dense")
        _copy(block.norm_mlp, state, f"{name}.output.LayerNorm")
    return layers


def _copy(module: torch.nn.Linear | torch.nn.LayerNorm, state: Mapping[str, Tensor], name: str) -> None:
    module.weight.copy_(state[f"{name}.weight"])
    module.bias.copy_(state[f"{name}.bias"])
