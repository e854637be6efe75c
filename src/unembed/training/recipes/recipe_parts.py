"""The tables of a recipe: what each key means, its default and its range.

Contents: `ModelPart`, `DataPart`, `ObjectivePart`, `OptimizerPart`, `RunPart`, `ValidationPart`, `StudentPart`,
`CorrectorPart`, `PairsPart`.
"""

from __future__ import annotations

from dataclasses import dataclass

from unembed.checks import allow, shown
from unembed.errors import RecipeError
from unembed.network.config import Shape
from unembed.plugins import plugin_names
from unembed.training.recipes.recipe_values import (
    BELOW_ONE,
    COUNT,
    SEED,
    SHARE,
    WEIGHT,
    parse_duration,
    within,
)

TASKS = ("denoiser", "student", "corrector")
"""What can be learnt (`training/tasks/table.py`)."""

SCHEDULE_NAMES = ("linear", "cosine", "exponential")
"""Names that `diffusion.schedule` knows; written out so that reading a recipe needs no torch."""

_SIZES = {"width": (1, 16_384), "layers": (1, 256), "heads": (1, 256), "mlp": (1, 65_536)}
"""Bounds of a small transformer's shape."""


@dataclass(frozen=True, kw_only=True)
class ModelPart(Shape):
    """Shape of the denoiser (see `Shape` for its keys), and what its weights start from.

    Attributes:
        init_embeddings: start the token embeddings from the encoder's own, where it has some of the same shape.
    """

    init_embeddings: bool = True


@dataclass(frozen=True)
class DataPart:
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
        noise: length of the Gaussian noise added to a vector, as a share of its norm.
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
    max_length: int = 32
    exclude_sources: tuple[str, ...] = ()
    batch_size: int = 256
    buckets: tuple[int, ...] = ()
    max_texts: int = 0
    noise: float = 0.0
    fitted: int = 0
    join: float = 0.1
    crop: float = 0.3
    truncate: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges; one folder may be given as a string."""
        if isinstance(self.shards, str):
            object.__setattr__(self, "shards", (self.shards,) if self.shards else ())
        sizes = {"max_length": (1, 4096), "batch_size": (1, 2**20), "max_texts": COUNT, "fitted": COUNT}
        within("data", self, {**sizes, "noise": (0, 10), "join": SHARE, "crop": SHARE, "truncate": SHARE})
        if self.buckets and (min(self.buckets) < 1 or max(self.buckets) != self.max_length):
            raise RecipeError(
                f"data.buckets is {shown(list(self.buckets))}.", f"Use lengths from 1 that end with {self.max_length}."
            )


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
        shortlist_frequent: tokens always in the training softmax; 0 uses the full vocabulary.
        shortlist_sampled: tokens sampled from the rest, with log-q correction.
        length_weight: weight of the length network's cross-entropy.
    """

    masking: str = "count"
    schedule: str = "linear"
    loss_weight: str = "flat"
    causal_share: float = 0.5
    vector_drop: float = 0.0
    shortlist_frequent: int = 4000
    shortlist_sampled: int = 2000
    length_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges."""
        allow("objective.masking", self.masking, ("count", "time"), RecipeError)
        if self.schedule not in SCHEDULE_NAMES:
            allow("objective.schedule", self.schedule, (*SCHEDULE_NAMES, *plugin_names("schedule")), RecipeError)
        allow("objective.loss_weight", self.loss_weight, ("bound", "flat", "printed"), RecipeError)
        if self.loss_weight == "printed" and self.masking != "time":
            raise RecipeError(
                'objective.loss_weight is "printed" (1/t), but masking "count" draws no t.',
                'Set objective.masking = "time", or loss_weight = "bound".',
            )
        columns = {"shortlist_frequent": (0, 10**7), "shortlist_sampled": (0, 10**7)}
        within("objective", self, {**columns, "causal_share": SHARE, "vector_drop": SHARE, "length_weight": (0, 1000)})


@dataclass(frozen=True)
class OptimizerPart:
    """AdamW, the learning rate over the run, clipping, EMA.

    Attributes:
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: on matrices only; norms, biases, gains and embeddings are left alone.
        warmup: steps of linear warm-up.
        decay: "linear" or "cosine", to zero at the horizon; "none" keeps the peak.
        hold: share of the run at the peak before the decay begins.
        clip: greatest norm of the gradient.
        ema: decay of the average of the weights, kept in fp32.
        accumulate: batches per step.
        matrices: how the blocks' matrices learn: "adamw" like everything else, or "muon" (orthogonalised momentum).
        muon_lr: peak learning rate of Muon, on AdamW's scale (its updates are matched in size); 0 takes `lr`.
    """

    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup: int = 200
    decay: str = "linear"
    hold: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = 1
    matrices: str = "adamw"
    muon_lr: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        rates = {"lr": (1e-12, 10), "muon_lr": (0, 10), "weight_decay": (0, 100), "clip": (1e-9, 1e9)}
        steps = {"warmup": COUNT, "accumulate": (1, 10**6)}
        within("optimizer", self, {**rates, **steps, "betas": BELOW_ONE, "ema": BELOW_ONE, "hold": BELOW_ONE})
        if len(self.betas) != 2:
            raise RecipeError(f"optimizer.betas is {shown(list(self.betas))}.", "Use two numbers.")
        allow("optimizer.matrices", self.matrices, ("adamw", "muon"), RecipeError)
        allow("optimizer.decay", self.decay, ("linear", "cosine", "none"), RecipeError)


@dataclass(frozen=True)
class RunPart:
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

    seed: int = 0
    steps: int = 0
    max_time: str = ""
    horizon: str = "steps"
    precision: str = "auto"
    compile: str = "auto"
    validate_every: float = 120.0
    save_every: float = 600.0
    milestones: tuple[str, ...] = ()
    reserve: str = ""
    threads: int = 0
    store_dtype: str = "fp32"

    def __post_init__(self) -> None:
        """Check ranges."""
        seconds = {"validate_every": (1e-9, 1e9), "save_every": (1e-9, 1e9)}
        within("run", self, {**seconds, "seed": SEED, "steps": COUNT, "threads": (0, 4096)})
        allow("run.precision", self.precision, ("auto", "fp32", "bf16"), RecipeError)
        allow("run.compile", self.compile, ("auto", "yes", "no"), RecipeError)
        allow("run.horizon", self.horizon, ("steps", "time", "none"), RecipeError)
        allow("run.store_dtype", self.store_dtype, ("fp32", "fp16", "int8", "int6"), RecipeError)
        for text in (self.max_time, self.reserve, *self.milestones):
            parse_duration(text)

    def compiles(self, device: str) -> bool:
        """Whether the blocks are compiled on a device of this type ("cpu", "cuda")."""
        return self.compile == "yes" or (self.compile == "auto" and device == "cuda")


@dataclass(frozen=True)
class ValidationPart:
    """Seeded validation.

    Attributes:
        shards: folder of held-out shards, or a pack; empty holds out some `texts` texts of the training data.
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
        within("validation", self, {"texts": (1, 10**7), "decoded": (0, 10**7), "seed": SEED})


@dataclass(frozen=True)
class StudentPart:
    """A student encoder.

    Attributes:
        width, layers, heads, mlp: of its transformer.
        paired: share of the batches that are texts and drafts of them, which teach what a few changed words do to a
            vector; the others are texts alone.
        whitened: weight of the whitened cosine, in which word order counts for more.
        difference: weight of the squared error of the draft's vector less the text's.
    """

    width: int = 256
    layers: int = 3
    heads: int = 4
    mlp: int = 768
    paired: float = 0.55
    whitened: float = 0.2
    difference: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        within("student", self, {**_SIZES, "paired": SHARE, "whitened": WEIGHT, "difference": WEIGHT})
        if self.width % self.heads:
            raise RecipeError(
                f"student.width is {self.width}, which is not a multiple of {self.heads} heads.",
                "Change student.width or .heads.",
            )


@dataclass(frozen=True)
class CorrectorPart:
    """A corrector; `network.corrector.CorrectorConfig` says what the keys mean."""

    layers: int = 2
    heads: int = 6
    mlp: int = 768
    read_heads: int = 4
    read_width: int = 64
    rank: int = 16
    vector_rows: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        readers = {"read_heads": (1, 256), "read_width": (1, 4096), "rank": (1, 4096), "vector_rows": (1, 256)}
        within("corrector", self, {**{key: _SIZES[key] for key in ("layers", "heads", "mlp")}, **readers})


@dataclass(frozen=True)
class PairsPart:
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
    own: int = 20_000
    filled: int = 20_000
    mistakes: int = 20_000
    corrected: int = 0
    held: float = 0.01

    def __post_init__(self) -> None:
        """Check ranges."""
        within("pairs", self, {"own": COUNT, "filled": COUNT, "mistakes": COUNT, "corrected": COUNT, "held": BELOW_ONE})
        if self.corrected > self.own:
            raise RecipeError(
                f"pairs.corrected is {self.corrected}, but only {self.own} own drafts are there to be corrected.",
                "Set pairs.own to at least that.",
            )
