"""Buckets for a GPU: padding changes no loss, and a compiler sees few shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from unembed.data.feed import Feed, bucket_of
from unembed.errors import DataError, RecipeError
from unembed.model.block import Block
from unembed.model.denoiser import MASK, Denoiser, DenoiserConfig
from unembed.training.objective import full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.optimizer import Together, make_optimizer
from unembed.training.recipe import ObjectivePart, OptimizerPart, Recipe
from unembed.training.shortlist import Shortlist
from unembed.training.step import StepLoss

CONFIG = DenoiserConfig(
    vector_dim=6, vocab_size=40, width=16, layers=2, heads=2, limit=8, causal=True, mask_id=3, eos_id=2, bos_id=1
)


class Texts:
    """A dataset in memory with random ids."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)
        rng = np.random.default_rng(0)
        self.ids = rng.integers(4, 40, (len(lengths), max(lengths)))
        self.vectors = rng.standard_normal((len(lengths), 6)).astype(np.float32)

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `ShardDataset.gather`."""
        lengths = self.lengths[index]
        return self.ids[index][:, : lengths.max()], lengths, self.vectors[index]


@pytest.mark.parametrize("backbone", ["adaln-zero", "bert"])
@torch.no_grad()
def test_padding_changes_no_loss(backbone: str) -> None:
    """The same masks over texts of 5 tokens, alone and padded to 8: the same cross-entropies, in both orders."""
    torch.manual_seed(0)
    denoiser = Denoiser(replace(CONFIG, backbone=backbone)).eval()
    for parameter in denoiser.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    ids, vectors = torch.randint(4, 40, (6, 5)), torch.randn(6, 6)
    wide = torch.nn.functional.pad(ids, (0, 3), value=9)
    lengths = torch.full((6,), 5)
    condition = denoiser.condition(vectors)
    padded = prepare_masked(wide, torch.Generator().manual_seed(1), "bound", lengths=lengths)
    exact = prepare_masked(ids, torch.Generator().manual_seed(2), "bound")
    exact.states = padded.states[:, :5]
    real = padded.weights > 0
    exact.owner, exact.column = padded.owner[real], padded.column[real]
    exact.targets, exact.weights = padded.targets[real], padded.weights[real]
    assert ((exact.states == MASK).sum(1) >= 1).all()
    assert int((exact.states == MASK).sum()) == int(real.sum())
    columns = full_columns(denoiser, False)
    assert torch.allclose(
        rows_loss(denoiser, condition, padded, columns)[0], rows_loss(denoiser, condition, exact, columns)[0], rtol=1e-5
    )
    columns = full_columns(denoiser, True)
    both = [
        rows_loss(denoiser, condition, rows, columns)[0]
        for rows in (prepare_causal(wide, 1, 2, lengths), prepare_causal(ids, 1, 2))
    ]
    assert torch.allclose(both[0], both[1], rtol=1e-5)


def test_the_number_of_scored_rows_is_fixed() -> None:
    """Whatever is masked, a batch of one shape scores as many rows."""
    g = torch.Generator().manual_seed(0)
    found = set()
    for _ in range(50):
        lengths = torch.randint(1, 9, (64,), generator=g)
        rows = prepare_masked(torch.full((64, 8), 9), g, "flat", lengths=lengths)
        assert (rows.column < lengths[rows.owner]).all()
        found.add(len(rows.owner))
    assert len(found) == 1


def test_a_bucketed_feed_has_one_shape_a_bucket() -> None:
    """Whole batches only, no text twice in an epoch, lengths kept."""
    data = Texts(np.random.default_rng(1).integers(1, 9, 500).tolist())
    feed = Feed(data, 16, seed=3, buckets=(4, 8))
    shapes, seen = set(), 0
    for _ in range(feed.batches_per_epoch):
        (group,) = feed.next()
        assert group.lengths is not None
        assert (bucket_of(group.lengths, (4, 8)) == group.ids.shape[1]).all()
        shapes.add(group.ids.shape)
        seen += len(group)
    assert {shape[1] for shape in shapes} == {4, 8}
    assert len(shapes) == 2
    assert 400 < seen <= 500
    with pytest.raises(DataError, match="fill no batch"):
        Feed(Texts([3, 4]), 16, seed=0, buckets=(4, 8))
    with pytest.raises(RecipeError, match="buckets"):
        Recipe.from_dict({"data": {"buckets": [8, 16]}})


def test_a_compiler_sees_two_shapes_a_bucket() -> None:
    """Blocks compiled with static shapes: one graph for each bucket, order and block, however many steps are taken."""
    torch._dynamo.reset()
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    denoiser = Denoiser(CONFIG)
    for module in denoiser.modules():
        if isinstance(module, Block):
            module.compile(backend=backend, dynamic=False)
    data = Texts(np.random.default_rng(1).integers(1, 9, 600).tolist())
    feed = Feed(data, 16, seed=3, buckets=(4, 8))
    shortlist = Shortlist(torch.ones(40), ~denoiser.banned, 10, 10)
    step = StepLoss(denoiser, ObjectivePart(causal_share=0.5), shortlist, torch.ones(40), "fp32")
    g = torch.Generator().manual_seed(0)
    losses = []
    optimizer = make_optimizer(denoiser, OptimizerPart(lr=1e-2, matrices="muon"))
    assert isinstance(optimizer, Together)
    for _ in range(12):
        (group,) = feed.next()
        assert group.lengths is not None
        optimizer.zero_grad()
        inputs = torch.from_numpy(group.ids), torch.from_numpy(group.vectors)
        losses.append(step.backward(*inputs, g, 1.0, torch.from_numpy(group.lengths)))
        optimizer.step()
    assert 0 < len(graphs) <= 2 * 2 * CONFIG.layers
    assert all(np.isfinite(losses))
    torch._dynamo.reset()
