"""The tables of a recipe: what each key means, its default and its range.

Contents: `ModelPart`, `DataPart`, `ObjectivePart`, `OptimizerPart`, `RunPart`, `ValidationPart`, `parse_duration`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unembed.errors import RecipeError
from unembed.model.config import Shape

SCHEDULE_NAMES = ("linear", "cosine", "exponential")
"""Names that `diffusion.schedule` knows; written out so that reading a recipe needs no torch."""


def _positive(part: Any, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(part, name)
        if not 0 < value < float("inf"):
            raise RecipeError(f"{name} is {value}.", "Use a number above 0.")


def _not_negative(part: Any, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(part, name)
        if not 0 <= value < float("inf"):
            raise RecipeError(f"{name} is {value}.", "Use 0 or a number above.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RecipeError(f"{name} is {value!r}.", f"Use one of {', '.join(allowed)}.")


@dataclass(frozen=True, kw_only=True)
class ModelPart(Shape):
    """Shape of the denoiser (see `Shape` for its keys), and what its weights start from.

    Attributes:
        init_embeddings: start the token embeddings from the encoder's own, where it has some of the same shape.
        init_blocks: start the blocks from the encoder's own layers (backbone "bert", an encoder that is a BERT).
    """

    init_embeddings: bool = True
    init_blocks: bool = True


@dataclass(frozen=True)
class DataPart:
    """Where texts and vectors come from.

    Attributes:
        shards: folder of cached shards (`unembed embed --shards`); empty when texts are embedded online.
        texts: text files, folders or Hugging Face datasets (hf:allenai/c4?config=en) for online embedding.
        encoder: name or folder of the encoder.
        prompt_name: one of the encoder's own prompts by name ("document"), put before every text; empty: the one that
            the encoder takes by default, if any.
        tokenizer: "encoder" for the encoder's own; or a folder with tokenizer.json, or vocab.json and merges.txt, or a
            name on the model hub. Shards must have been made with the same (`unembed embed --tokenizer`).
        limit: longest text in tokens.
        exclude_sources: sources left out, as an out-of-domain test set.
        batch_size: texts a step.
        buckets: lengths that texts are padded to, such as [8, 16, 24, 32], for static shapes on a GPU; empty: batches
            of one exact length, nothing is padded.
        max_texts: use only the first so many texts of a seeded order, 0 for all.
        noise: standard deviation of noise added to a vector, as a share of its norm.
        join, crop, truncate: online only: how often a line is joined with the next, cut to a run of its words, cut
            to a length drawn afresh.
    """

    shards: str = ""
    texts: tuple[str, ...] = ()
    encoder: str = "minilm"
    prompt_name: str = ""
    tokenizer: str = "encoder"
    limit: int = 32
    exclude_sources: tuple[str, ...] = ()
    batch_size: int = 256
    buckets: tuple[int, ...] = ()
    max_texts: int = 0
    noise: float = 0.0
    join: float = 0.1
    crop: float = 0.3
    truncate: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        _positive(self, ("limit", "batch_size"))
        _not_negative(self, ("max_texts", "noise"))
        if self.buckets and (min(self.buckets) < 1 or max(self.buckets) != self.limit):
            raise RecipeError(
                f"data.buckets is {list(self.buckets)}.", f"Use lengths from 1 that end with {self.limit}."
            )
        for name in ("join", "crop", "truncate"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"data.{name} is {getattr(self, name)}.", "Use a probability from 0 to 1.")


@dataclass(frozen=True)
class ObjectivePart:
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
        guess_share: share of the other texts whose visible tokens are guesses, some of them wrong.
        guess_error: share of wrong tokens among guesses.
        shortlist_frequent: tokens always in the training softmax; 0 uses the full vocabulary.
        shortlist_sampled: tokens sampled from the rest, with log-q correction.
        length_weight: weight of the length network's cross-entropy.
    """

    masking: str = "count"
    schedule: str = "linear"
    loss_weight: str = "flat"
    causal_share: float = 0.5
    vector_drop: float = 0.0
    guess_share: float = 0.0
    guess_error: float = 0.2
    shortlist_frequent: int = 4000
    shortlist_sampled: int = 2000
    length_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        _one_of("objective.masking", self.masking, ("count", "time"))
        _one_of("objective.schedule", self.schedule, SCHEDULE_NAMES)
        _one_of("objective.loss_weight", self.loss_weight, ("bound", "flat", "printed"))
        if self.loss_weight == "printed" and self.masking != "time":
            raise RecipeError(
                'objective.loss_weight is "printed" (1/t), but masking "count" draws no t.',
                'Set objective.masking = "time", or loss_weight = "bound".',
            )
        for name in ("causal_share", "vector_drop", "guess_share", "guess_error"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"objective.{name} is {getattr(self, name)}.", "Use a share from 0 to 1.")


@dataclass(frozen=True)
class OptimizerPart:
    """AdamW, the learning rate over the run, clipping, EMA.

    Attributes:
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: on matrices only; norms, biases, gains and embeddings are left alone.
        warmup: steps of linear warm-up.
        decay: "linear" or "cosine", to zero at the horizon; "none" keeps the peak.
        clip: greatest norm of the gradient.
        ema: decay of the average of the weights, kept in fp32.
        accumulate: batches a step.
        matrices: how the blocks' matrices learn: "adamw" like everything else, or "muon" (orthogonalised momentum).
        muon_lr: peak learning rate of Muon, on AdamW's scale (its updates are matched in size); 0 takes `lr`.
    """

    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup: int = 200
    decay: str = "linear"
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = 1
    matrices: str = "adamw"
    muon_lr: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        _positive(self, ("lr", "clip", "accumulate"))
        _not_negative(self, ("weight_decay", "warmup", "muon_lr"))
        for name, values in (("betas", self.betas), ("ema", (self.ema,))):
            if not all(0 <= value < 1 for value in values) or (name == "betas" and len(values) != 2):
                raise RecipeError(
                    f"optimizer.{name} is {getattr(self, name)}.", "Use 0 or more, below 1; betas are two."
                )
        _one_of("optimizer.matrices", self.matrices, ("adamw", "muon"))
        _one_of("optimizer.decay", self.decay, ("linear", "cosine", "none"))


@dataclass(frozen=True)
class RunPart:
    """How long, how precise, how often.

    Attributes:
        seed: of everything random.
        steps: horizon in steps; 0 fixes it from a warm-up timing under `max_time`.
        max_time: time box such as "9m", "1.5h", "600s"; empty for none.
        horizon: "steps" (bit-for-bit resumable) or "time" (the learning rate follows the clock; for a shared machine).
        precision: "auto", "fp32" or "bf16" (autocast).
        compile: torch.compile the blocks, "yes" or "no"; "auto" compiles on a GPU (on a CPU it takes a minute first).
        validate_every: seconds between validations.
        save_every: seconds between saves of the training state.
        milestones: times such as "90s" or "10m" from the start of the run, preparation included, after which a
            checkpoint of the average so far is kept in `milestones/` under the run's folder.
        processes: processes that each compute the gradient of a batch of their own (cached shards on a CPU); a step
            then takes so many batches.
        threads: CPU threads of a process, 0 leaves torch's choice (1 where there are several processes).
        store_dtype: weights of the final checkpoint: "fp32", "fp16" or "int8".
    """

    seed: int = 0
    steps: int = 0
    max_time: str = ""
    horizon: str = "steps"
    precision: str = "auto"
    compile: str = "auto"
    validate_every: float = 120.0
    save_every: float = 600.0
    milestones: tuple[str, ...] = ()
    processes: int = 1
    threads: int = 0
    store_dtype: str = "fp32"

    def __post_init__(self) -> None:
        """Check ranges."""
        _positive(self, ("processes", "validate_every", "save_every"))
        _not_negative(self, ("seed", "steps", "threads"))
        _one_of("run.precision", self.precision, ("auto", "fp32", "bf16"))
        _one_of("run.compile", self.compile, ("auto", "yes", "no"))
        _one_of("run.horizon", self.horizon, ("steps", "time"))
        _one_of("run.store_dtype", self.store_dtype, ("fp32", "fp16", "int8"))
        for text in (self.max_time, *self.milestones):
            parse_duration(text)

    def compiles(self, device: str) -> bool:
        """Whether the blocks are compiled on a device of this type ("cpu", "cuda")."""
        return self.compile == "yes" or (self.compile == "auto" and device == "cuda")


@dataclass(frozen=True)
class ValidationPart:
    """Seeded validation.

    Attributes:
        shards: folder of held-out shards; empty holds out the first `texts` texts of the training data.
        texts: texts for the loss.
        decoded: texts decoded from all masks, 0 for none.
        seed: of the masks, the same at every validation.
    """

    shards: str = ""
    texts: int = 512
    decoded: int = 200
    seed: int = 17

    def __post_init__(self) -> None:
        """Check ranges."""
        _positive(self, ("texts",))
        _not_negative(self, ("decoded", "seed"))


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
    if not 0 < seconds < float("inf"):
        raise RecipeError(f"{text!r} is not a duration.", 'Write it like "90s", "9m" or "1.5h".')
    return seconds
