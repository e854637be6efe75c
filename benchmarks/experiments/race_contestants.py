"""Who races, and how each drafts (benchmarks/experiments/race.py).

Contents: `Way`, `Contestant`, `CONTESTANTS`.

All have 4 blocks of width 256 with 4 heads, an MLP of 1024, the encoder's tokenizer, the same batch, learning rate
schedule, average of the weights and training softmax, unless their line says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIZE = ("model.width=256", "model.layers=4", "model.heads=4", "model.mlp=1024")
STEPS = (
    "data.batch_size=192",
    "optimizer.lr=1.5e-3",
    "optimizer.warmup=100",
    "optimizer.decay='linear'",
    "optimizer.ema=0.999",
    "optimizer.matrices='adamw'",  # for all alike; the race compares networks
    "objective.shortlist_frequent=3000",
    "objective.shortlist_sampled=1500",
)
EMBEDDING = ("model.embedding_dim=384",)  # the encoder's own, which the table starts from
PAPER_SIZE = (*SIZE, "data.tokenizer='encoder'")


@dataclass(frozen=True)
class Way:
    """A way to decode a contestant's checkpoint.

    Attributes:
        name: in tables and figures.
        strategy, options: of `Inverter.invert`.
        curve: whether milestones are decoded that way too.
    """

    name: str
    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    curve: bool = False


@dataclass(frozen=True)
class Contestant:
    """A network and how it is trained.

    Attributes:
        about: for the page.
        recipe: where its settings begin.
        overrides: what is changed.
        ways: how it is decoded.
        regular: whether it runs when no contestants are named.
    """

    about: str
    recipe: str
    overrides: tuple[str, ...]
    ways: tuple[Way, ...]
    regular: bool = True


GREEDY = Way("left to right, greedy", "left-to-right")
BEAM = Way("left to right, beam 4", "left-to-right", {"beam": 4}, curve=True)
PAPER_WAYS = (
    Way("sequential, 33 passes", "sequential", {"passes": 33}, curve=True),
    Way("Euler, 33 passes", "euler", {"passes": 33}),
    Way("Euler and re-masking 0.05, 33 passes", "euler-remask", {"passes": 33, "remask": 0.05}),
    Way("two-stage, 33 passes", "two-stage", {"passes": 33}),
    Way("Euler, 8 passes", "euler", {"passes": 8}),
)

CONTESTANTS: dict[str, Contestant] = {
    "default": Contestant(
        "the default network: masks in half of the texts, the next token in the other half; AdaLN-Zero and 8 memory "
        "rows from the whitened vector, the closed-form token prior, a length head",
        "recipes/default.toml",
        (*SIZE, *EMBEDDING, *STEPS, "objective.causal_share=0.5"),
        (
            Way(
                "draft-correct, beam 4, 4 passes",
                "draft-correct",
                {"beam": 4, "passes": 4, "remask_rate": 0.3},
                curve=True,
            ),
            BEAM,
            GREEDY,
            Way("adaptive, 8 passes, 3 lengths", "adaptive", {"passes": 8, "lengths": 3}, curve=True),
        ),
    ),
    "autoregressive": Contestant(
        "a causal decoder: the next token in every text; 8 rows made from the whitened vector run through the blocks "
        "before the text, and nothing else sees the vector",
        "recipes/autoregressive.toml",
        (*SIZE, *EMBEDDING, *STEPS),
        (GREEDY, BEAM),
    ),
    "paper": Contestant(
        "the paper's network and objective at this size: exponential schedule with the printed weight, time "
        "conditioning, plain vector through AdaLN alone, the end learnt as a token; batch, learning rate, average and "
        "shortlist of the others",
        "recipes/paper.toml",
        (*PAPER_SIZE, *STEPS),
        PAPER_WAYS,
    ),
    "autoregressive-prior": Contestant(
        "the causal decoder with the default's closed-form token prior as a gated bias on its logits",
        "recipes/autoregressive.toml",
        (*SIZE, *EMBEDDING, *STEPS, "model.token_prior=true"),
        (GREEDY, BEAM),
    ),
    "paper-printed": Contestant(
        "the paper's network at this size with its optimizer as printed too: batch 400, constant learning rate 1e-4, "
        "average 0.9999, whole vocabulary",
        "recipes/paper.toml",
        PAPER_SIZE,
        PAPER_WAYS,
        regular=False,
    ),
    "default-causal": Contestant(
        "the default network with the next token in every text: how much of the default's drafts the masks cost",
        "recipes/default.toml",
        (*SIZE, *EMBEDDING, *STEPS, "objective.causal_share=1.0"),
        (GREEDY, BEAM),
        regular=False,
    ),
}
