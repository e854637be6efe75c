"""The tables of a recipe: what each key means, its default, and what it may be.

Contents: `ModelPart`, `DataPart`, `ObjectivePart`, `OptimizerPart`, `RunPart`, `ValidationPart`, `StudentPart`,
`CorrectorPart`, `PairsPart`; `parse_duration`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from unembed.checks import allow, bound, shown
from unembed.errors import RecipeError
from unembed.network.config import NetworkShape
from unembed.plugins import plugin_names

SCHEDULE_NAMES = ("linear", "cosine", "exponential")
"""Names that `diffusion.schedule` knows; written out so that reading a recipe needs no torch."""

_BELOW_ONE = math.nextafter(1, 0)
_MANY, _SEEDS = 10**12, 2**63 - 1
_LONGEST = 10 * 366 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds in "90", "90s", "9m", "1.5h"; 0 for "".

    Raises:
        RecipeError: not a duration.
    """
    if not text:
        return 0.0
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1].lower())
    number = text[:-1] if factor else text
    try:
        seconds = float(number) * (factor or 1.0)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LONGEST:
        raise RecipeError(
            f"{shown(text)} is not a duration, or one of more than ten years.", 'Write it like "90s", "9m" or "1.5h".'
        )
    return seconds


def _number(default: Any, low: float = 0, high: float = 1) -> Any:
    """A key whose value, or each member of it, lies from `low` to `high`; a share where neither is said."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


def _word(default: str, *others: str) -> Any:
    """A key that holds one of several words."""
    return dataclasses.field(default=default, metadata={"words": (default, *others)})


class _Table:
    """What all tables but the model's have: each key is held to the range or the words that stand beside it."""

    def __post_init__(self) -> None:
        """Check every key, and then what keys say together; a `RecipeError` names the key and what it may be."""
        for key in dataclasses.fields(self):  # type: ignore[arg-type]
            name, value = f"{type(self).__name__.removesuffix('Part').lower()}.{key.name}", getattr(self, key.name)
            if "range" in key.metadata:
                low, high = key.metadata["range"]
                for one in value if isinstance(value, tuple) else (value,):
                    bound(name, one, low, high, RecipeError, whole=isinstance(one, int))
            elif "words" in key.metadata:
                allow(name, value, key.metadata["words"], RecipeError)
        self._check()

    def _check(self) -> None:
        """What keys say together."""


@dataclass(frozen=True, kw_only=True)
class ModelPart(NetworkShape):
    """Shape of the denoiser (see `NetworkShape` for its keys), and what its weights start from.

    Attributes:
        init_embeddings: start the token embeddings from the encoder's own, where it has some of the same shape.
    """

    init_embeddings: bool = True


@dataclass(frozen=True)
class DataPart(_Table):
    """Where texts and vectors come from.

    Attributes:
        base: for a student or a corrector: the checkpoint that it is made for, a name or a folder. Encoder, tokenizer
            and `max_length` are then those of the base.
        shards: folder of cached shards (`unembed embed --shards`), or one or several packs (`unembed pack`), whose
            texts are embedded while training; empty when `texts` are.
        texts: text files, folders or Hugging Face datasets (hf:allenai/c4?config=en) for online embedding.
        encoder: name or folder of the encoder.
        prompt_name: one of the encoder's own prompts by name ("document"), put before every text; empty: the one that
            the encoder takes by default, if any.
        tokenizer: "encoder" for the encoder's own; or a folder with tokenizer.json, or vocab.json and merges.txt, or a
            name on the model hub. Shards must have been made with the same (`unembed embed --tokenizer`).
        max_length: longest text in tokens.
        exclude_sources: sources left out, as an out-of-domain test set.
        batch_size: texts per step.
        buckets: lengths that texts are padded to, such as [8, 16, 24, 32]: everything then stays on the device and all
            shapes are fixed, for a GPU; it needs packs. Empty: batches of one exact length, nothing is padded.
        max_texts: use only this many texts, the first of a seeded order, 0 for all.
        fitted: the closed-form parts are fitted on this many texts, drawn with the seed; 0: all of the shards; of
            packs, whose vectors have to be made for it, 200,000 on a CPU and all on a GPU.
        crop: how often a text is cut to a run of its words, where it is embedded while training.
        join, truncate: with `texts` only: how often a line is joined with the next, cut to a length drawn afresh.
    """

    base: str = "default"
    shards: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    encoder: str = "minilm"
    prompt_name: str = ""
    tokenizer: str = "encoder"
    max_length: int = _number(32, 1, 4096)
    exclude_sources: tuple[str, ...] = ()
    batch_size: int = _number(256, 1, 2**20)
    buckets: tuple[int, ...] = ()
    max_texts: int = _number(0, 0, _MANY)
    fitted: int = _number(0, 0, _MANY)
    join: float = _number(0.1)
    crop: float = _number(0.3)
    truncate: float = _number(0.1)

    def _check(self) -> None:
        if isinstance(self.shards, str):  # one folder
            object.__setattr__(self, "shards", (self.shards,) if self.shards else ())
        if self.buckets and (min(self.buckets) < 1 or max(self.buckets) != self.max_length):
            raise RecipeError(
                f"data.buckets is {shown(list(self.buckets))}.", f"Use lengths from 1 that end with {self.max_length}."
            )


@dataclass(frozen=True)
class ObjectivePart(_Table):
    """What is learnt from a batch.

    Attributes:
        masking: "count" (k uniform on 1..n, exactly k masks) or "time" (t uniform on (0, 1], each token masked with
            probability 1 - alpha(t)); both evenly over the batch.
        schedule: alpha: "linear", "cosine" or "exponential" (2602.11047, which never masks all). It decides the masks
            of masking "time", and what a share of masks means as a time.
        loss_weight: weight of a masked token: "bound" (n/k, or -alpha'(t) / (1 - alpha(t)) with masking "time"),
            "flat" (1) or "printed" (1/t whatever the schedule, 2602.11047, equation 4; masking "time" only).
        causal_share: share of the texts of a batch that are learnt left to right.
        vector_drop: share of the texts whose vector is replaced by a learnt null vector, for classifier-free guidance
            (2207.12598); `guidance` in decoding then goes away from that vector.
        shortlist_frequent: tokens always in the training softmax; 0 uses the full vocabulary.
        shortlist_sampled: tokens sampled from the rest, with log-q correction.
        length_weight: weight of the length network's cross-entropy.
    """

    masking: str = _word("count", "time")
    schedule: str = "linear"
    loss_weight: str = _word("flat", "bound", "printed")
    causal_share: float = _number(0.5)
    vector_drop: float = _number(0.0)
    shortlist_frequent: int = _number(4000, 0, 10**7)
    shortlist_sampled: int = _number(2000, 0, 10**7)
    length_weight: float = _number(0.1, 0, 1000)

    def _check(self) -> None:
        if self.schedule not in SCHEDULE_NAMES:
            allow("objective.schedule", self.schedule, (*SCHEDULE_NAMES, *plugin_names("schedule")), RecipeError)
        if self.loss_weight == "printed" and self.masking != "time":
            raise RecipeError(
                'objective.loss_weight is "printed" (1/t), but masking "count" draws no t.',
                'Set objective.masking = "time", or loss_weight = "bound".',
            )


@dataclass(frozen=True)
class OptimizerPart(_Table):
    """AdamW, the learning rate over the run, clipping, EMA.

    Attributes:
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: on matrices only; norms, biases, gains and embeddings are left alone.
        warmup: steps of linear warm-up.
        decay: "linear", to zero at the horizon; "none" keeps the peak.
        hold: share of the run at the peak before the decay begins.
        clip: greatest norm of the gradient.
        ema: decay of the average of the weights, kept in fp32.
        accumulate: batches per step.
        matrices: how the blocks' matrices learn: "adamw" like everything else, or "muon" (orthogonalised momentum).
        muon_lr: peak learning rate of Muon, on AdamW's scale (its updates are matched in size); 0 takes `lr`.
    """

    lr: float = _number(1e-3, 1e-12, 10)
    betas: tuple[float, ...] = _number((0.9, 0.98), 0, _BELOW_ONE)
    weight_decay: float = _number(0.01, 0, 100)
    warmup: int = _number(200, 0, _MANY)
    decay: str = _word("linear", "none")
    hold: float = _number(0.0, 0, _BELOW_ONE)
    clip: float = _number(1.0, 1e-9, 1e9)
    ema: float = _number(0.999, 0, _BELOW_ONE)
    accumulate: int = _number(1, 1, 10**6)
    matrices: str = _word("adamw", "muon")
    muon_lr: float = _number(0.0, 0, 10)

    def _check(self) -> None:
        if len(self.betas) != 2:
            raise RecipeError(f"optimizer.betas is {shown(list(self.betas))}.", "Use two numbers.")


@dataclass(frozen=True)
class RunPart(_Table):
    """How long, how precise, how often.

    Attributes:
        seed: of everything random.
        steps: horizon in steps; 0 fixes it from a warm-up timing under `max_time`.
        max_time: time box such as "9m", "1.5h", "600s"; empty for none.
        horizon: what the learning rate falls with. "steps" (bit-for-bit resumable), "time" (the clock; for a shared
            machine), or "none": it stays at its peak and the run never ends by itself, but for `steps` and `max_time`;
            `train(cooldown=...)` then makes a checkpoint from its state whenever one is wanted.
        precision: "auto", "fp32" or "bf16" (autocast).
        compile: torch.compile the blocks, "yes" or "no"; "auto" compiles on a GPU (on a CPU it takes a minute first).
        validate_every: seconds between validations.
        save_every: seconds between saves of the training state.
        milestones: times such as "90s" or "10m" from the start of the run, preparation included, after which a
            checkpoint of the average so far is kept in `milestones/` under the run's folder.
        reserve: time of a time box that is kept for the last validation, the state and the checkpoint; empty: as long
            as they took before, or a share of the box where that is not known.
        threads: CPU threads, 0 leaves torch's choice.
        store_dtype: weights of the final checkpoint: "fp32", "fp16", "int8" or "int6".
    """

    seed: int = _number(0, 0, _SEEDS)
    steps: int = _number(0, 0, _MANY)
    max_time: str = ""
    horizon: str = _word("steps", "time", "none")
    precision: str = _word("auto", "fp32", "bf16")
    compile: str = _word("auto", "yes", "no")
    validate_every: float = _number(120.0, 1e-9, 1e9)
    save_every: float = _number(600.0, 1e-9, 1e9)
    milestones: tuple[str, ...] = ()
    reserve: str = ""
    threads: int = _number(0, 0, 4096)
    store_dtype: str = _word("fp32", "fp16", "int8", "int6")

    def _check(self) -> None:
        for text in (self.max_time, self.reserve, *self.milestones):
            parse_duration(text)

    def compiles(self, device: str) -> bool:
        """Whether the blocks are compiled on a device of this type ("cpu", "cuda")."""
        return self.compile == "yes" or (self.compile == "auto" and device == "cuda")


@dataclass(frozen=True)
class ValidationPart(_Table):
    """Seeded validation.

    Attributes:
        shards: folder of held-out shards, or a pack; empty holds out some `texts` texts of the training data.
        texts: texts for the loss.
        decoded: texts decoded from all masks, 0 for none.
        seed: of the masks, the same at every validation.
    """

    shards: str = ""
    texts: int = _number(512, 1, 10**7)
    decoded: int = _number(200, 0, 10**7)
    seed: int = _number(17, 0, _SEEDS)


@dataclass(frozen=True)
class StudentPart(_Table):
    """A student encoder.

    Attributes:
        width, layers, heads, mlp: of its transformer.
        paired: share of the batches that are texts and drafts of them, which teach what a few changed words do to a
            vector; the others are texts alone.
        whitened: weight of the whitened cosine, in which word order counts for more.
        difference: weight of the squared error of the draft's vector less the text's.
    """

    width: int = _number(256, 1, 16_384)
    layers: int = _number(3, 1, 256)
    heads: int = _number(4, 1, 256)
    mlp: int = _number(768, 1, 65_536)
    paired: float = _number(0.55)
    whitened: float = _number(0.2, 0, 1e6)
    difference: float = _number(1.0, 0, 1e6)

    def _check(self) -> None:
        if self.width % self.heads:
            raise RecipeError(
                f"student.width is {self.width}, which is not a multiple of {self.heads} heads.",
                "Change student.width or .heads.",
            )


@dataclass(frozen=True)
class CorrectorPart(_Table):
    """A corrector; `network.corrector.CorrectorConfig` says what the keys mean."""

    layers: int = _number(2, 1, 256)
    heads: int = _number(6, 1, 256)
    mlp: int = _number(768, 1, 65_536)
    read_heads: int = _number(4, 1, 256)
    read_width: int = _number(64, 1, 4096)
    rank: int = _number(16, 1, 4096)
    vector_rows: int = _number(2, 1, 256)


@dataclass(frozen=True)
class PairsPart(_Table):
    """Texts with drafts of them, for a student or a corrector; what the folder lacks is made before the first step.

    Attributes:
        folder: where the pairs lie, in parts. Parts that others write into it meanwhile are taken in too.
        own: number of the base's own drafts, left to right.
        filled: true texts, some positions of which the base fills anew.
        mistakes: true texts with mistakes.
        corrected: what the corrector that the run starts from makes of own drafts.
        held: share of the texts whose pairs are held out, for the figures of a corrector's log.
    """

    folder: str = ""
    own: int = _number(20_000, 0, _MANY)
    filled: int = _number(20_000, 0, _MANY)
    mistakes: int = _number(20_000, 0, _MANY)
    corrected: int = _number(0, 0, _MANY)
    held: float = _number(0.01, 0, _BELOW_ONE)

    def _check(self) -> None:
        if self.corrected > self.own:
            raise RecipeError(
                f"pairs.corrected is {self.corrected}, but only {self.own} own drafts are there to be corrected.",
                "Set pairs.own to at least that.",
            )
