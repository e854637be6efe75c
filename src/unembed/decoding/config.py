"""What a decode may spend and how it goes about it. Free of torch, so that the command line can show it fast.

Contents: `STRATEGIES` (names and one line each), `strategy_names`, `REMASK_RULES`, `DecodeConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from unembed.checks import allow, bound
from unembed.errors import InputError
from unembed.plugins import plugin, plugin_names

STRATEGIES: dict[str, str] = {
    "adaptive": "as many positions a pass as an entropy bound allows, at least enough to end in time",
    "confidence": "the surest positions first, evenly spread over the passes",
    "sequential": "the leftmost ceil(n / passes) positions at a time",
    "euler": "each position at a random pass, as the schedule says",
    "euler-remask": "euler, and committed tokens are re-masked at random or below a threshold",
    "two-stage": "a sequential draft, re-masked to a rate, then euler",
    "remdm": "euler with the re-masking posterior of ReMDM (2503.00307)",
    "left-to-right": "token by token in causal order: greedy, sampled or by beam; needs causal rows",
    "draft-correct": "a left-to-right draft, then its least sure positions are predicted again; needs causal rows",
    "prior": "no pass at all: the likeliest tokens by the closed-form priors alone; the fast baseline",
}
CAUSAL_STRATEGIES = ("left-to-right", "draft-correct")
RANDOM_STRATEGIES = ("euler", "euler-remask", "two-stage", "remdm")
REMASK_RULES = ("probability", "threshold")


def strategy_names() -> list[str]:
    """Names of the strategies, those of plug-ins after the built-in ones."""
    return list(dict.fromkeys([*STRATEGIES, *plugin_names("strategy")]))


def option(
    default: Any, least: float | None = None, most: float | None = None, served: float | None = None, about: str = ""
) -> Any:
    """A field with its bounds; a server takes at most `served` (None: `most`, 0: not at all) and is told what for."""
    return field(
        default=default,
        metadata={"least": least, "most": most, "served": most if served is None else served, "about": about},
    )


@dataclass(frozen=True)
class DecodeConfig:
    """Everything that fixes a decode besides the weights and the vector.

    Attributes:
        strategy: a key of `STRATEGIES`, or the name of a plug-in. For "prior" no other option counts, and those that
            sample are refused.
        passes: the most denoiser passes a draft may take; for draft-correct, passes of correction after the draft;
            not used by left-to-right, which takes one (incremental) pass a token.
        temperature: of the token choice; 0 takes the likeliest. Sampling adds float64 Gumbel noise.
        samples: drafts for each length (or for each text, where the length is not chosen beforehand).
        lengths: lengths tried for each text, the likeliest first; only where the canvas is "length".
        guidance: scale s of classifier-free guidance, logits = u + s (c - u), with u from the null vector that training
            put in the place of some vectors (2207.12598); 1 is off, any other value costs two passes for one and needs
            a checkpoint that was trained so (`objective.vector_drop`).
        remask: euler-remask: the probability, or the threshold, of re-masking; remdm: the cap of sigma.
        remask_rule: euler-remask: "probability", "threshold", or the name of a plug-in.
        remask_rate: two-stage: share of the draft that is re-masked; draft-correct: the share at the first pass.
        entropy_bound: adaptive: nats that a group of tokens committed together may hold besides its largest.
        beam: hypotheses kept by left-to-right and draft-correct.
        seed: of all random choices. A row's random numbers depend on the seed, its vector, length and sample, never
            on the rows beside it.
        choose: "likelihood" takes the draft of the highest score, "student" that of the highest score with the cosine
            added that a student encoder sees between draft and vector; the checkpoint must have one.
        student_weight: nats that a cosine of 1 is worth with choose "student".
        length_weight: weight of log p(n) in the score; None is 1, or 0 for left-to-right drafts, whose own
            probability of the end says the same.
        length_power: the log-likelihood is divided by n to this power in the score.
        schedule: the noise schedule that euler, euler-remask, two-stage and remdm follow.
    """

    strategy: str = option("adaptive", about="A name from /v1/models.")
    passes: int = option(8, 1, 10_000, 128, "Most passes of the network.")
    temperature: float = option(0.0, 0, 100, about="0 takes the likeliest tokens.")
    samples: int = option(1, 1, 10_000, 16, "Drafts per length; needs a temperature.")
    lengths: int = option(3, 1, 10_000, 16, "Number of likely lengths that are decoded.")
    guidance: float = option(1.0, 0, 100, about="Weight of the vector; for models that have it.")
    remask: float = option(0.05, 0, 1, about="Of euler-remask and remdm.")
    remask_rule: str = option("probability")
    remask_rate: float = option(0.5, 0, 1, about="Of two-stage and draft-correct.")
    entropy_bound: float = option(0.5, 0, 1e9, about="Of adaptive, nats.")
    beam: int = option(1, 1, 1_000, 16, "Hypotheses of left-to-right and draft-correct.")
    seed: int = option(0, 0, 2**63 - 1, 2**53 - 1, "Of everything random.")
    choose: str = option("likelihood")
    student_weight: float = option(100.0, 0, 1e6, served=0)
    length_weight: float | None = option(None, 0, 1e9)
    length_power: float = option(0.0, 0, 1)
    schedule: str = option("linear")

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            InputError: naming the option and what it may be.
        """
        for name, kind, allowed in (
            ("strategy", "strategy", STRATEGIES),
            ("remask_rule", "remasking", REMASK_RULES),
            ("choose", "", ("likelihood", "student")),
        ):
            value = getattr(self, name)
            if value not in allowed:  # plug-ins are looked for only then
                allow(name, value, list(dict.fromkeys([*allowed, *(plugin_names(kind) if kind else ())])))
        for item in fields(self):
            value, least = getattr(self, item.name), item.metadata["least"]
            if least is not None and not (value is None and item.default is None):
                bound(item.name, value, least, item.metadata["most"], whole=str(item.type) == "int")
        if self.beam > 1 and (self.temperature > 0 or self.samples > 1):
            raise InputError(
                f"A beam of {self.beam} cannot be combined with sampling.",
                "Set beam = 1 to sample, or temperature = 0 and samples = 1 to search.",
            )
        if self.beam > 1 and not self.causal:
            raise InputError(
                f"The strategy {self.strategy} has no beam.", "Set beam = 1, or use left-to-right or draft-correct."
            )
        if self.strategy == "prior" and (self.temperature > 0 or self.samples > 1 or self.guidance != 1):
            raise InputError(
                "The strategy prior has one draft and no pass: it takes no temperature, samples or guidance.",
                "Leave them out, or use another strategy.",
            )
        if self.strategy == "left-to-right" and self.guidance != 1:
            raise InputError(
                "The strategy left-to-right takes no guidance.",
                "Leave guidance out, or use a strategy that fills masks, such as adaptive.",
            )
        if self.samples > 1 and self.temperature == 0 and not self.random:
            raise InputError(
                f"{self.samples} samples of {self.strategy} at temperature 0 would all be equal.",
                "Set a temperature above 0, such as 0.7, or samples = 1.",
            )

    @property
    def causal(self) -> bool:
        """Whether the draft is made left to right."""
        return self.strategy in CAUSAL_STRATEGIES

    @property
    def random(self) -> bool:
        """Whether the strategy's own rules draw random numbers."""
        if self.strategy in STRATEGIES:
            return self.strategy in RANDOM_STRATEGIES
        return bool(getattr(plugin("strategy", self.strategy), "random", False))

    @property
    def batch_size(self) -> int:
        """Vectors decoded together where nothing else is said."""
        return 4096 if self.strategy == "prior" else 64

    @property
    def cost(self) -> int:
        """Denoiser passes of one step: guidance needs the pass without the vector too."""
        return 1 if self.guidance == 1 else 2
