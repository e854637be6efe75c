"""The harness on a tiny denoiser: what it writes, baselines, calibration, teacher forcing against decoding."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from reports import results_page
from tests.helpers.tiny import encoder_model, save_tiny
from unembed.encoders.hashing import HashingEncoder
from unembed.errors import InputError
from unembed.evaluation import baselines, harness, tables
from unembed.evaluation.evaluate import evaluate
from unembed.evaluation.sets import EvaluationSet, TrainingSample
from unembed.inverter import Inverter
from unembed.metrics.text import token_accuracy
from unembed.network.base import GIVEN, MASK

LENGTH, CHAINS = 6, 12


@pytest.fixture(scope="module")
def encoder():
    return HashingEncoder(32)


@pytest.fixture(scope="module")
def inverter(encoder, tmp_path_factory):
    """A network that has learnt that each token is the one before plus one, and nothing about vectors."""
    denoiser = encoder_model(encoder, width=64, layers=2, prefix_tokens=1, causal=False)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    free = (~denoiser.banned).nonzero().squeeze(1)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, 2 - step / 100)
        ids = free[20 + torch.randint(CHAINS, (64, 1)) + torch.arange(LENGTH)]
        masked = torch.rand(64, LENGTH) < 0.4
        masked[:, 0] |= ~masked.any(dim=1)
        cond = denoiser.condition(torch.nn.functional.normalize(torch.randn(64, 32)))
        logits = denoiser.logits(
            ids.masked_fill(masked, denoiser.config.mask_id), torch.where(masked, MASK, GIVEN), cond, rows=masked
        )
        loss = torch.nn.functional.cross_entropy(logits, ids[masked])
        lengths = torch.nn.functional.nll_loss(
            denoiser.length_log_probs(torch.randn(64, 32)), torch.full((64,), LENGTH - 1)
        )
        optimizer.zero_grad()
        (loss + lengths).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("checkpoint")
    save_tiny(path, encoder, denoiser.eval())
    return Inverter.from_pretrained(path, device="cpu")


@pytest.fixture(scope="module")
def chains(inverter, encoder):
    """60 texts, each token the one before plus one; their vectors tell which, but the network never saw a vector."""
    free = np.setdiff1d(np.arange(inverter.tokenizer.size), inverter.tokenizer.banned)
    generator = np.random.default_rng(1)
    ids = [free[20 + start + np.arange(LENGTH)].tolist() for start in generator.integers(CHAINS, size=60)]
    vectors = encoder.encode([inverter.tokenizer.decode(row) for row in ids])
    return EvaluationSet("chains", ids, vectors)


@pytest.fixture(scope="module")
def sample(chains):
    return TrainingSample.from_arrays(chains.vectors[:40], chains.ids[:40], n=30, seed=0)


def test_token_accuracy_is_not_masked_token_accuracy(inverter, chains):
    """The same network scores near 1 teacher forced, near 0 decoded from all masks."""
    forced = harness.teacher_forced(inverter.denoiser, chains, 0.17, seed=0).value
    decoded = [list(r.token_ids) for r in inverter.invert(chains.vectors, passes=LENGTH, lengths=1)]
    assert forced > 0.8
    assert token_accuracy(decoded, chains.ids) < 0.3
    assert harness.teacher_forced(inverter.denoiser, chains, 1.0, seed=0).value < 0.3


def test_teacher_forced_masks_the_rate_and_is_seeded(inverter, chains):
    for rate, count in ((0.01, 1), (0.5, 3), (1.0, LENGTH)):
        statistic = harness.teacher_forced(inverter.denoiser, chains, rate, seed=0, batch_size=7)
        assert set(statistic.rows[:, 1]) == {count}
        again = harness.teacher_forced(inverter.denoiser, chains, rate, seed=0, batch_size=60)
        assert (statistic.rows == again.rows).all()


@pytest.fixture(scope="module")
def result(inverter, chains, sample, encoder):
    data = chains.subset(25, seed=4)
    setting = harness.Setting("confidence", {"passes": 3, "lengths": 2}, default=True)
    return harness.evaluate_set(inverter, data, setting, sample=sample, encoder=encoder, rates=(0.5,), seed=4)


def test_result_states_what_it_was_measured_on(result, inverter):
    assert result["seed"] == 4
    assert result["data"] == {"name": "chains", "n": 25, "of": 60, "seed": 4}
    assert result["encoder"] == "hashing:32"
    assert result["checkpoint"]["sha256"] == inverter.sha256 and len(inverter.sha256) == 64
    assert result["strategy"] == "confidence" and result["options"]["passes"] == 3 and result["lengths"] == 2
    assert 3.0 < result["passes"] <= 6.0  # two lengths of at most three passes each, those of all drafts counted
    assert result["queries"] == 0.0 and result["seconds"] > 0
    assert result["texts_per_second"] == pytest.approx(25 / result["seconds"])
    assert result["machine"]["summary"] and result["machine"]["threads"] >= 1
    assert {"token_accuracy", "token_f1", "bleu", "cosine", "masked_token_accuracy@0.5"} <= set(result["metrics"])
    assert result["floors"]["cosine"]["value"] < 1
    assert [b["n"] for b in result["bins"]["length"]] == [25, 0, 0, 0]
    assert sum(b["n"] for b in result["bins"]["nearest_training_cosine"]) == 25
    assert result["neighbours"] == {"n": 30, "of": 40, "seed": 0}
    assert "calibration" not in result  # the checkpoint has none, so its confidence claims nothing


def test_result_is_reproducible(result, inverter, chains, sample, encoder):
    setting = harness.Setting("confidence", {"passes": 3, "lengths": 2}, default=True)
    again = harness.evaluate_set(
        inverter, chains.subset(25, seed=4), setting, sample=sample, encoder=encoder, rates=(0.5,), seed=4, batch_size=4
    )
    for key in ("metrics", "floors", "bins", "data", "options", "passes", "examples"):
        assert again[key] == result[key], key


def test_the_public_function_takes_texts_and_vectors(inverter, chains, encoder):
    """What `unembed.evaluate` makes of texts is what the harness makes of their set, whatever stands for the model."""
    part = chains.subset(9, seed=0)
    texts = [inverter.tokenizer.decode(list(row)) for row in part.ids]
    way = {"strategy": "confidence", "passes": 2, "lengths": 1}
    setting = harness.Setting("confidence", {"passes": 2, "lengths": 1})
    expected = harness.evaluate_set(inverter, part, setting, rates=(0.5,))
    with_vectors = evaluate(inverter, texts, pd.Series(list(part.vectors)), rates=(0.5,), **way)
    assert with_vectors["metrics"] == expected["metrics"] and with_vectors["options"] == expected["options"]
    assert "cosine" not in with_vectors["metrics"], "no encoder was named"
    folder = inverter.model.checkpoint.path
    embedded = evaluate(folder, [f"{text} and more of it" for text in texts], encoder=encoder, name="mine", **way)
    assert embedded["data"]["name"] == "mine" and "cosine" in embedded["metrics"]
    assert "cosine" in evaluate(inverter, texts[0])["metrics"] and evaluate(inverter, texts[0])["default"]
    for wrong, said in (
        ({"texts": []}, "no text"),
        ({"texts": ["the", "\u2603"]}, "Text 1"),
        ({"texts": texts, "vectors": part.vectors[1:]}, "9 texts and 8 vectors"),
        ({"texts": texts, "pases": 3}, "pases"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate(inverter, **wrong)


def test_baselines_see_no_reference(inverter, chains, sample):
    vocabulary = inverter.tokenizer.size
    drawn = baselines.random_tokens(sample, 500, vocabulary, seed=0)
    assert len(drawn) == 500 and {len(row) for row in drawn} == {LENGTH}
    assert set(np.concatenate(drawn)) <= set(sample.tokens.tolist())
    assert drawn == baselines.random_tokens(sample, 500, vocabulary, seed=0)
    near = baselines.nearest_neighbour(sample, sample.vectors[:5].astype(np.float32))
    assert near == [sample.ids(i) for i in range(5)]
    config = harness.DecodeConfig(passes=2, lengths=1)
    texts, passes = baselines.unconditional(inverter.denoiser, sample.mean, 7, config)
    assert len(texts) == 7 and passes == 2 and all(text == texts[0] for text in texts)
    sampled, _ = baselines.unconditional(
        inverter.denoiser, sample.mean, 7, harness.DecodeConfig(passes=2, temperature=1.0)
    )
    assert len({tuple(text) for text in sampled}) > 1


def test_closed_form_baseline_beats_random_tokens(inverter, encoder):
    from unembed.priors.fit import fit_closed_form

    free = np.setdiff1d(np.arange(inverter.tokenizer.size), inverter.tokenizer.banned)[30:60]
    generator = np.random.default_rng(5)
    ids = [generator.choice(free, size=LENGTH, replace=False).tolist() for _ in range(1500)]
    vectors = encoder.encode([inverter.tokenizer.decode(row) for row in ids])
    train = TrainingSample.from_arrays(vectors[:1400], ids[:1400])
    batch = torch.tensor(ids[:1400]), torch.full((1400,), LENGTH), torch.from_numpy(vectors[:1400])
    parts = fit_closed_form([batch], inverter.tokenizer.size, LENGTH)
    found = baselines.closed_form(parts, vectors[1400:], batch_size=30)
    assert len(found) == 100
    drawn = baselines.random_tokens(train, 100, inverter.tokenizer.size)
    assert harness.token_f1(found, ids[1400:]) > 0.2 + harness.token_f1(drawn, ids[1400:])


def test_calibration_is_fitted_and_then_reported(inverter, chains, result):
    calibration = harness.fit_calibration(
        inverter, chains.ids, chains.vectors, strategy="confidence", passes=3, lengths=2
    )
    assert calibration.n == 60 and calibration.settings == {"strategy": "confidence", "passes": 3, "lengths": 2}
    inverter.model.calibrations = {"confidence": calibration.to_dict()}
    try:
        setting = harness.Setting("confidence", {"passes": 3, "lengths": 2})
        report = harness.evaluate_set(inverter, chains, setting)
    finally:
        inverter.model.calibrations = None
    assert set(report["calibration"]) == {"token_f1", "exact_match"}
    assert report["calibration"]["token_f1"]["ece"] < 0.15  # on the texts that it was fitted on
    assert sum(b["n"] for b in report["calibration"]["token_f1"]["bins"]) == 60


def test_results_become_files_and_a_page(result, inverter, chains, sample, tmp_path):
    data = chains.subset(25, seed=4)
    near = baselines.nearest_neighbour(sample, data.vectors)
    baseline = harness.evaluate_baseline("nearest-neighbour", near, inverter, data, seconds=0.5, sample=sample, seed=4)
    assert harness.write_result(tmp_path, result).name == "chains-confidence.json"
    assert harness.write_result(tmp_path, baseline).name == "chains-baseline-nearest-neighbour.json"
    assert json.loads((tmp_path / "chains-confidence.json").read_text()) == json.loads(json.dumps(result))
    page = results_page.write_page(tmp_path, tmp_path / "results.md")
    assert tables.cell("token_f1", result["metrics"]["token_f1"]) in page
    assert "baseline: `nearest-neighbour`" in page and inverter.sha256 in page
