"""The loss on the device: it is that of the exact path, reads nothing, and has fixed shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unembed.network.base import GIVEN, MASK, PREFIX
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.priors.token_prior import TokenPrior
from unembed.training.device.columns import NEVER, DeviceColumns, Drawn
from unembed.training.device.device_rows import DeviceRows, draw_rows, most_scored
from unembed.training.device.device_step import DeviceLoss
from unembed.training.device.kernels import Kernels, chunk_of, head_loss
from unembed.training.losses.rows import Rows, ScoredColumns, rows_loss
from unembed.training.recipes.recipe_parts import ObjectivePart

V, D, BOS, EOS = 90, 12, 2, 3


def network(**changes: Any) -> Denoiser:
    """A small network whose every part matters, and a prior with counts of 1 to 30."""
    torch.manual_seed(0)
    shape = {"width": 16, "layers": 2, "heads": 2, "embedding_dim": 10, "prefix_tokens": 3, "max_length": 8} | changes
    config = ModelConfig(
        vector_dim=D, vocab_size=V, causal=True, token_prior=True, bos_id=BOS, eos_id=EOS, mask_id=4, pad_id=0, **shape
    )
    denoiser = Denoiser(config)
    for parameter in denoiser.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    counts = torch.randint(1, 30, (V,))
    counts[EOS] = 0
    denoiser.token_prior = TokenPrior.from_sums(torch.randn(V, D) * counts.unsqueeze(1), counts, 100)
    return denoiser.train()


def batch(texts: int = 24, n: int = 8, repeats: bool = True) -> tuple[Tensor, ...]:
    """ids, lengths, vectors, vectors of the whole texts, and which of them are known."""
    torch.manual_seed(1)
    ids = torch.randint(5, 12 if repeats else V, (texts, n))
    length = torch.randint(1, n + 1, (texts,))
    length[0], length[-1] = n, n
    vectors = torch.randn(texts, D)
    return ids, length, vectors, vectors, torch.rand(texts) < 0.5


def loss_of(denoiser: Denoiser, share: float = 0.4, sampled: int = 50) -> DeviceLoss:
    part = ObjectivePart(causal_share=share, shortlist_frequent=30, shortlist_sampled=sampled, length_weight=0.1)
    always = torch.zeros(V, dtype=torch.bool)
    always[5:30] = True
    return DeviceLoss(denoiser, part, always, "fp32", Kernels(False))


def exact(loss: DeviceLoss, rows: DeviceRows, drawn: Drawn, vectors: Tensor, known: Tensor) -> Tensor:
    """The same rows and columns by the path that pads nothing: one length and one order after the other."""
    denoiser, total = loss.denoiser, torch.zeros(())
    table = F.embedding(drawn.tokens, denoiser.embedding.weight)
    texts = len(rows.text)
    for causal, half in ((True, slice(0, rows.causal)), (False, slice(rows.causal, texts))):
        share = (half.stop - half.start) / texts / max(int(rows.scored[half].sum()), 1)
        added = drawn.correction if causal else drawn.correction.masked_fill(drawn.tokens == EOS, NEVER)
        for n in rows.length[half].unique().tolist():
            mine = half.start + (rows.length[half] == n).nonzero().squeeze(1)
            canvas = n + causal
            owner, column = rows.scored[mine, :canvas].nonzero(as_tuple=True)
            made = Rows(
                rows.shown[mine, :canvas],
                rows.states[mine, :canvas],
                owner,
                column,
                rows.text[mine][owner, column],
                torch.full((len(owner),), share),
                causal,
            )
            condition = denoiser.condition(vectors[mine])
            fitted = (rows.text[mine, :n], known[mine])
            columns = ScoredColumns(drawn.tokens, added, drawn.place)
            total = total + rows_loss(denoiser, condition, made, columns, fitted, table)[0]
    log_n = denoiser.length_log_probs(vectors)
    return total + loss.part.length_weight * F.nll_loss(log_n, rows.length - 1)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("known", ["none", "some", "all"])
@pytest.mark.parametrize("repeats", [True, False])
def test_the_loss_and_its_gradients_are_those_of_the_exact_path(share: float, known: str, repeats: bool) -> None:
    denoiser = network()
    ids, length, vectors, full, some = batch(repeats=repeats)
    know = {"none": torch.zeros_like(some), "some": some, "all": torch.ones_like(some)}[known]
    loss = loss_of(denoiser, share)
    rows = loss.draw(ids, length)
    drawn = loss.columns.draw(loss.wanted(rows))
    assert bool(drawn.enough) and len(drawn.tokens) == 80
    ours = loss.of_rows(rows, drawn, vectors, full, know)
    theirs = exact(loss, rows, drawn, vectors, know)
    assert torch.isclose(ours, theirs, rtol=1e-5, atol=1e-6), (ours, theirs)
    names = [name for name, p in denoiser.named_parameters() if p.requires_grad]
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    mine = torch.autograd.grad(ours, parameters, allow_unused=True)
    other = torch.autograd.grad(theirs, parameters, allow_unused=True)
    for name, a, b in zip(names, mine, other, strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7, (name, a.norm(), b.norm())


@pytest.mark.parametrize("changes", [{"whiten": False}, {"prefix_tokens": 0}, {"embedding_dim": 0}])
def test_other_shapes_of_the_network_agree_too(changes: dict[str, Any]) -> None:
    denoiser = network(**changes)
    ids, length, vectors, full, known = batch()
    loss = loss_of(denoiser)
    rows = loss.draw(ids, length)
    drawn = loss.columns.draw(loss.wanted(rows))
    theirs = exact(loss, rows, drawn, vectors, known)
    assert torch.isclose(loss.of_rows(rows, drawn, vectors, full, known), theirs, rtol=1e-5)


def test_leaving_a_text_out_matters_and_what_is_left_out_is_its_whole_vector() -> None:
    """A crop's own vector is not in the means; its text's is."""
    denoiser = network()
    ids, length, vectors, _, known = batch()
    loss = loss_of(denoiser)
    rows = loss.draw(ids, length)
    drawn = loss.columns.draw(loss.wanted(rows))
    found = [loss.of_rows(rows, drawn, vectors, full, known) for full in (vectors, 3 * vectors, -vectors)]
    found.append(loss.of_rows(rows, drawn, vectors, vectors, torch.zeros_like(known)))
    assert len({round(float(f.detach()), 4) for f in found}) == 4
    prior, full = denoiser.token_prior, denoiser._scaled(-vectors)
    assert prior is not None
    z = denoiser._scaled(vectors)
    _, right = loss.evidence.of_own(z, rows.text, full, torch.ones_like(known))
    b, j = 3, 0
    token = rows.text[b, j]
    size = prior.counts[token] + prior.shrink
    mean = (prior.means(token.view(1))[0] * size - full[b]) / (size - 1)
    by_hand = prior.weight * (z[b] @ mean - 0.5 * mean.square().sum())
    assert torch.isclose(right[b, j], by_hand, rtol=1e-4)


def test_rows_are_drawn_as_they_are_described() -> None:
    ids, length, *_ = batch(64)
    rows = draw_rows(ids, length, 20, BOS, EOS)
    position = torch.arange(9)
    assert (rows.scored[:20] == (position <= length[:20, None])).all()
    assert (rows.text[position >= length[:, None]] == EOS).all()
    assert (rows.shown[:20, 0] == BOS).all() and (rows.shown[:20, 1:] == rows.text[:20, :-1]).all()
    masked = rows.scored[20:]
    assert (masked == rows.masked).all() and not masked[position >= length[20:, None]].any()
    counts = masked.sum(1)
    assert (counts >= 1).all() and (counts <= length[20:]).all()
    assert (rows.states[20:][masked] == MASK).all() and (rows.states[:20] == PREFIX).all()
    assert (rows.states[20:][rows.inside[20:] & ~masked] == GIVEN).all()
    assert not (rows.allowed[:20, :, :] & (position > position[:, None])).any()
    assert (rows.allowed[20:] == rows.inside[20:, None, :]).all()


def test_as_many_rows_are_scored_as_there_is_room_for_at_most() -> None:
    for seed in range(40):
        torch.manual_seed(seed)
        texts, n = int(torch.randint(1, 40, ())), int(torch.randint(1, 12, ()))
        causal = int(torch.randint(0, texts + 1, ()))
        for length in (torch.full((texts,), n), torch.randint(1, n + 1, (texts,))):
            rows = draw_rows(torch.randint(5, V, (texts, n)), length, causal, BOS, EOS)
            assert int(rows.scored.sum()) <= most_scored(texts, n, causal)


def test_the_sum_over_drawn_columns_is_that_over_all() -> None:
    """Sampled columns stand for the others: the sum of exponentials is right on average."""
    torch.manual_seed(0)
    allowed, always = torch.ones(V, dtype=torch.bool), torch.zeros(V, dtype=torch.bool)
    allowed[:4], always[40:50] = False, True
    columns = DeviceColumns(always, allowed, 40)
    weights = torch.rand(V) + 0.1
    wanted, found = torch.tensor([7, 7, 9, BOS]), []
    for _ in range(1500):
        drawn = columns.draw(wanted)
        assert drawn.enough and len(drawn.tokens.unique()) == 40
        assert (drawn.tokens[drawn.place[wanted]] == wanted).all()
        assert not drawn.correction[drawn.place[[7, 9]]].any() and drawn.correction[drawn.place[BOS]] == NEVER
        found.append((weights[drawn.tokens] * drawn.correction.exp()).sum())
    assert abs(float(torch.stack(found).mean() / weights[allowed].sum()) - 1) < 0.015


def test_a_batch_with_more_tokens_than_columns_is_left_out() -> None:
    denoiser = network()
    inputs = batch(64, repeats=False)
    assert torch.isfinite(loss_of(denoiser, sampled=58)(*inputs))
    loss = loss_of(denoiser, sampled=0)(*inputs)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in denoiser.parameters() if p.grad is not None])
    assert torch.isnan(loss) and torch.isnan(norm)


def test_all_columns_need_no_draw() -> None:
    denoiser = network()
    loss = loss_of(denoiser)
    whole = DeviceLoss(denoiser, replace(loss.part, shortlist_frequent=0), loss.columns.always, "fp32", Kernels(False))
    ids, length, vectors, full, known = batch()
    rows = whole.draw(ids, length)
    drawn = whole.columns.draw(whole.wanted(rows))
    assert len(drawn.tokens) == V
    found = whole.of_rows(rows, drawn, vectors, full, known)
    assert torch.isclose(found, exact(whole, rows, drawn, vectors, known), rtol=1e-5)


def test_bf16_is_the_same_loss_to_its_rounding() -> None:
    denoiser = network()
    loss = loss_of(denoiser)
    low = DeviceLoss(denoiser, loss.part, loss.columns.always, "bf16", Kernels(False))
    ids, length, vectors, full, known = batch()
    rows = loss.draw(ids, length)
    drawn = loss.columns.draw(loss.wanted(rows))
    found, want = (f.of_rows(rows, drawn, vectors, full, known) for f in (low, loss))
    assert found.dtype == torch.float32 and torch.isclose(found, want, rtol=0.02) and found != want
    grads = [torch.autograd.grad(f, denoiser.embedding.weight)[0] for f in (found, want)]
    assert F.cosine_similarity(*(g.flatten() for g in grads), dim=0) > 0.99


def test_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(24, 9), torch.randn(30, 6, requires_grad=True), torch.randn(30)
    rest = (
        torch.randn(24, 2),
        torch.randn(30, 3),
        torch.randint(30, (24, 2)),
        torch.randint(30, (24,)),
        torch.rand(24),
    )
    found = []
    for chunk in (24, 8, 3):
        loss = head_loss(hidden, weight, bias, *rest, chunk)
        found.append((loss.detach(), torch.autograd.grad(loss, weight)[0]))
    logits = torch.cat((weight.detach(), rest[1]), 1) @ hidden.T
    logits = (logits.T + bias).scatter_add(1, rest[2], rest[0])
    plain = (F.cross_entropy(logits, rest[3], reduction="none") * rest[4]).sum()
    for loss, gradient in found:
        assert torch.isclose(loss, plain, rtol=1e-5)
        assert torch.allclose(gradient, found[0][1], rtol=1e-4, atol=1e-6)
    assert chunk_of(1000, 5000, "cpu") == 334 and chunk_of(10, 10, "cuda") == 10


READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "repeat_interleave", "equal")


class NothingRead(TorchDispatchMode):
    """Refuses what would make the host wait: values that are read, shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not any(name.startswith(read) for read in READS), f"{name} reads the device"
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{name} by a mask has no fixed shape"
        found = func(*args, **(kwargs or {}))
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        self.shapes.append((name, *shape))
        return found


def test_a_step_reads_nothing_and_its_operations_are_the_same_for_every_batch() -> None:
    denoiser = network()
    loss = loss_of(denoiser)
    seen = []
    for seed in range(3):
        ids, length, vectors, full, known = batch(10)
        torch.manual_seed(seed)
        ids, length = torch.randint(5, V - 30, ids.shape), torch.randint(1, 9, length.shape)
        with NothingRead() as mode:
            loss(ids, length, vectors, full, known).backward()
        denoiser.zero_grad()
        seen.append(mode.shapes)
    assert len(seen[1]) > 300 and seen[1] == seen[2], "the prior's tensors are made at the first step alone"
    with pytest.raises(AssertionError, match="reads the device"), NothingRead():
        float(torch.ones(()))


def test_the_step_runs_where_tensors_have_no_values() -> None:
    """A value that is read, or a shape that depends on one, is an error there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    denoiser, inputs, mode = network(), batch(), FakeTensorMode(allow_non_fake_inputs=True)
    for precision in ("fp32", "bf16"):
        loss = DeviceLoss(denoiser, loss_of(denoiser).part, torch.zeros(V, dtype=torch.bool), precision, Kernels(False))
        with mode:
            found = loss(*(mode.from_tensor(t) for t in inputs))
            found.backward()
        assert found.shape == () and found.dtype == torch.float32
        denoiser.zero_grad()


def test_every_tensor_of_a_step_is_made_on_the_device() -> None:
    """Where a tensor is made without naming a device, it is one without values, which cannot be mixed with others."""
    loss, inputs = loss_of(network()), batch()
    with torch.device("meta"):
        loss(*inputs).backward()
