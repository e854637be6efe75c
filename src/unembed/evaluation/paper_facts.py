"""The figures that arXiv 2602.11047 (v1) prints, as far as they are compared with ours. Plain values, no code.

Its "token accuracy" is measured on masked positions of a partly visible text in tables 1 and 5 (here:
masked_token_accuracy) and after decoding from all masks in table 3 (here: token_accuracy).
"""

from __future__ import annotations

from typing import Any

SENTENCE = "The advancement of artificial intelligence has fundamentally transformed modern society."

# Table 1: sequential greedy decoding, 2M samples of mC4, 32 tokens.
ENCODERS: tuple[dict[str, Any], ...] = (
    {
        "encoder": "Qwen3-Embedding-0.6B",
        "masked": 0.813,
        "steps": "72.5K",
        "loss": 1.317,
        "vocab": 152_000,
        "dim": 1024,
    },
    {"encoder": "EmbeddingGemma-300m", "masked": 0.788, "steps": "49.5K", "loss": 1.55, "vocab": 262_000, "dim": 768},
    {"encoder": "jina-embeddings-v3", "masked": 0.760, "steps": "62.5K", "loss": 1.60, "vocab": 250_000, "dim": 1024},
)

# Table 2: mean cosine over one sentence in ten languages; strategy -> jina-v3, Qwen3, Gemma.
COSINES: dict[str, tuple[float, float, float]] = {
    "sequential": (0.715, 0.585, 0.621),
    "euler": (0.667, 0.556, 0.604),
    "euler-remask": (0.665, 0.584, 0.595),
    "two-stage": (0.667, 0.591, 0.605),
}
COSINE_ENCODERS = ("jina-v3", "Qwen3", "Gemma")

# Table 3: re-mask probability of Euler -> token accuracy, cosine, BLEU.
REMASKING: dict[float, tuple[float, float, float]] = {
    0.0: (0.652, 0.81, 38.7),
    0.05: (0.678, 0.82, 42.1),
    0.10: (0.663, 0.81, 40.2),
    0.20: (0.637, 0.80, 37.1),
}
TWO_STAGE_EXACT = 0.131
RANDOM_TOKENS = 0.0002
UNCONDITIONAL = 0.021

# Table 4: hyper-parameters, under the keys of a recipe.
HYPER_PARAMETERS: dict[str, Any] = {
    "model.layers": 8,
    "model.width": 768,
    "model.heads": 12,
    "model.mlp": 3072,
    "model.dropout": 0.1,
    "data.max_length": 32,
    "data.batch_size": 400,
    "objective.schedule": "exp(-5t)",
    "optimizer.lr": 1e-4,
    "optimizer.weight_decay": 0.01,
    "optimizer.ema": 0.9999,
    "run.steps": 200_000,
}

# Table 5: jina-v3, sequential greedy: steps -> "token accuracy", exact match, cosine, BLEU.
MILESTONES: dict[str, tuple[float, float, float, float]] = {
    "10K": (0.402, 0.013, 0.65, 22.1),
    "25K": (0.587, 0.058, 0.76, 35.4),
    "50K": (0.697, 0.123, 0.83, 45.2),
    "100K": (0.708, 0.137, 0.84, 46.8),
    "200K": (0.712, 0.141, 0.84, 47.3),
}

# Table 6: the sentence above on jina-v3: strategy -> cosine.
EXAMPLE_COSINES: dict[str, float] = {"sequential": 0.82, "euler": 0.80, "euler-remask": 0.78, "two-stage": 0.79}

# Tables 7 to 9: six languages for each encoder, sequential greedy; the ten of table 2.
LANGUAGES = ("en", "zh", "de", "ja", "fr", "es", "ko", "ru", "ar", "pt")

# Appendix A.2, one A100.
COST = {
    "training": "48 h for 200K steps",
    "sequential": "150 ms per text, 32 passes",
    "euler": "50 ms per text, 8 passes",
}
