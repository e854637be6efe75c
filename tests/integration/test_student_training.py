"""A student is trained on shards and pairs: it comes near to the encoder on texts that it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from unembed.data.shard_writer import write_shards
from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.model.config import DenoiserConfig
from unembed.model.denoiser import Denoiser
from unembed.model.student import StudentConfig, StudentEncoder
from unembed.training.draft_pairs import Pairs
from unembed.training.student import StudentRun, student_cosine, train_student

LIMIT = 8
WORDS = "the old dog saw a small house near river and city people went home with water every morning".split()


def test_training_brings_the_student_near_to_its_encoder(tmp_path: Path) -> None:
    encoder = HashingEncoder(24)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json())
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(400)]
    for name, part in (("train", texts[:300]), ("validation", texts[300:])):
        write_shards(tmp_path / name, [(text, "a") for text in part], encoder, tokenizer, limit=LIMIT)
    dataset, validation = ShardDataset(tmp_path / "train"), ShardDataset(tmp_path / "validation")
    config = DenoiserConfig(
        vector_dim=24, vocab_size=tokenizer.size, width=32, layers=1, heads=2, limit=LIMIT, causal=True,
        mask_id=tokenizer.mask_id, eos_id=tokenizer.eos_id, bos_id=tokenizer.bos_id, pad_id=tokenizer.pad_id,
    )  # fmt: skip
    torch.manual_seed(0)
    denoiser = Denoiser(config).eval()
    denoiser.whitening.mean.zero_()
    drafts = [" ".join(rng.permutation(text.split())) for text in texts[:100]]
    ids = tokenizer.encode(drafts)
    padded = np.zeros((100, LIMIT), dtype=np.int32)
    for row, found in enumerate(ids):
        padded[row, : len(found)] = found
    pairs = Pairs(
        np.arange(100), padded, np.array([len(found) for found in ids], dtype=np.uint8),
        encoder.encode(drafts).astype(np.float16), np.zeros(100, dtype=np.uint8),
    )  # fmt: skip
    student = StudentEncoder(StudentConfig(24, LIMIT, denoiser.embedding.weight.shape[1], 64, 1, 1, 128))
    before = student_cosine(student, denoiser, validation)
    run = StudentRun(steps=200, tokens=256, warmup=5, precision="fp32", ema=0.9, validate_every=2.0)
    result = train_student(student, denoiser, dataset, pairs, run, tmp_path / "out", validation)
    after = student_cosine(student, denoiser, validation)
    assert before < 0.5 < 0.8 < after
    assert result["cosine"] == after and result["texts"] > 500
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] or len(log) == 1
