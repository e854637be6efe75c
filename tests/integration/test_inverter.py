"""The facade, on a checkpoint with random weights that belongs to the hashing encoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.helpers.tiny import save_tiny
from unembed import Inverter, Recovery, UnembedError, load_encoder
from unembed.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from unembed.checkpoint.shipped import find_checkpoint, shipped_names
from unembed.decoding.confidence import FEATURES, Calibration, calibration_for, draft_features
from unembed.decoding.config import DecodeConfig
from unembed.errors import CheckpointError, EncoderMismatchError, InputError
from unembed.files import write_json

TEXTS = ["the old man and the sea", "she don't know", "where is the station ?", "a"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, len(FEATURES)))
    calibration = Calibration.fit(features, rng.random(200), rng.random(200) < 0.2, {"strategy": "adaptive"})
    folder = tmp_path_factory.mktemp("inverter") / "tiny"
    stored = {"adaptive": calibration.to_dict()}
    return save_tiny(folder, calibration=stored, scale=0.3)


@pytest.fixture(scope="module")
def inverter(checkpoint: Path) -> Inverter:
    return Inverter.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return load_encoder("hashing:24").encode(TEXTS)


def test_what_a_recovery_holds(inverter: Inverter, vectors: np.ndarray) -> None:
    found = inverter.invert(vectors, lengths=3, trace=True)
    assert len(found) == len(TEXTS)
    assert inverter.max_length == 8 and inverter.dimension == 24 and inverter.name == "tiny"
    calibration = calibration_for(inverter.model.calibrations, "adaptive")
    assert calibration is not None
    for recovery, draft in zip(found, inverter.drafts(vectors, lengths=3), strict=True):
        assert recovery.text == inverter.tokenizer.detokenize(recovery.token_ids)
        assert recovery.tokens == tuple(inverter.tokenizer.tokens(recovery.token_ids))
        assert len(recovery.token_ids) == len(recovery.token_confidence) == recovery.length
        assert recovery.token_ids == draft.ids and recovery.passes == draft.spent
        expected, exact = calibration.apply(draft_features(draft)[None])
        assert recovery.confidence == pytest.approx(float(expected[0]))
        assert recovery.p_exact == pytest.approx(float(exact[0]))
        assert recovery.queries == 0 and recovery.original is None
        assert recovery.trace is not None and recovery.trace.steps[-1].ids == recovery.token_ids
        assert len({recovery.token_ids, *(a.token_ids for a in recovery.alternatives)}) == 3
        json.dumps(dataclasses.asdict(recovery))


def test_without_a_calibration_there_is_a_likelihood_and_no_confidence(inverter: Inverter, vectors: np.ndarray) -> None:
    for recovery in inverter.invert(vectors, strategy="sequential"):
        assert recovery.confidence is None and recovery.p_exact is None
        assert recovery.likelihood == pytest.approx(np.mean(recovery.token_confidence))
        assert all(other.confidence is None and 0 <= other.likelihood <= 1 for other in recovery.alternatives)


def texts_of(found: list[Recovery]) -> list[tuple[int, ...]]:
    return [recovery.token_ids for recovery in found]


def test_every_kind_of_array_is_taken(inverter: Inverter, vectors: np.ndarray) -> None:
    expected = texts_of(inverter.invert(vectors))
    kinds = (
        vectors.astype(np.float64),
        vectors.tolist(),
        list(vectors),
        torch.from_numpy(vectors),
        torch.from_numpy(vectors).requires_grad_(),
        np.asfortranarray(vectors),
        np.repeat(vectors, 2, axis=0)[::2],
        pa.table({"v": list(vectors)})["v"],
        3.0 * vectors,  # the encoder makes vectors of length 1, so the length says nothing
    )
    for kind in kinds:
        assert texts_of(inverter.invert(kind)) == expected
    for half in (vectors.astype(np.float16), torch.from_numpy(vectors).bfloat16()):
        assert len(inverter.invert(half)) == len(TEXTS)
    assert texts_of(inverter.invert(vectors[2])) == [expected[2]]
    assert inverter.invert(vectors[:0]) == inverter.invert([]) == []


@pytest.mark.parametrize("options", [{}, {"strategy": "euler"}, {"strategy": "draft-correct"}, {"temperature": 1.0}])
def test_batches_do_not_change_a_result(inverter: Inverter, vectors: np.ndarray, options: dict[str, object]) -> None:
    whole = texts_of(inverter.invert(vectors, **options))
    assert texts_of(inverter.invert(vectors, batch_size=1, **options)) == whole
    assert texts_of(inverter.invert(vectors, batch_size=3, **options)) == whole


def bad_vectors(vectors: np.ndarray) -> dict[str, object]:
    nan, infinite, zero = vectors.copy(), vectors.astype(np.float64), vectors.copy()
    nan[2, 3], infinite[1, 0], zero[3] = np.nan, 1e300, 0
    return {
        "Row 2 .*NaN": nan,
        "Row 1 .*infinite": infinite,
        "Row 3 .*zeros": zero,
        "dimension 10": vectors[:, :10],
        "dimension 0": np.zeros((3, 0)),
        "3 axes": vectors[None],
        "0 axes": np.float32(3.0),
        "row 1 has the shape": np.array([vectors[0], None], dtype=object),
        "type <U": np.array(["a", "b"]),
        "not an array of numbers": [[1.0, 2.0], [1.0]],
        "type complex": vectors.astype(np.complex64),
        "type bool": np.ones((2, 24), dtype=bool),
        "type |type object": None,
    }


def test_vectors_that_cannot_be_used_are_named(inverter: Inverter, vectors: np.ndarray) -> None:
    for pattern, bad in bad_vectors(vectors).items():
        with pytest.raises(InputError, match=pattern) as caught:
            inverter.invert(bad)
        assert "24" in caught.value.what and "hashing:24" in caught.value.what
        assert caught.value.do.endswith(".")


def test_options_that_do_not_exist_name_the_nearest(inverter: Inverter, vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="Did you mean passes"):
        inverter.invert(vectors, pases=3)
    with pytest.raises(InputError, match="strategy"):
        inverter.invert(vectors, strategy="fast")
    with pytest.raises(InputError, match="batch_size"):
        inverter.invert(vectors, batch_size=0)
    with pytest.raises(InputError, match="device"):
        Inverter.from_pretrained(find_checkpoint(Path(__file__).parent), device="toaster")


def test_given_tokens_stay(inverter: Inverter, vectors: np.ndarray) -> None:
    sea = inverter.tokenizer.encode(["the old sea"])[0]
    given = np.full((4, 3), -1)
    given[0], given[2, 1] = sea, sea[1]
    found = inverter.invert(vectors, given=given)
    assert found[0].token_ids[:3] == tuple(sea) and found[2].token_ids[1] == sea[1]
    assert inverter.invert(vectors[0], given=sea)[0].token_ids[:3] == tuple(sea)
    for bad in (given[:2], given.astype(float), given + 10**6, [inverter.tokenizer.mask_id]):
        with pytest.raises(InputError):
            inverter.invert(vectors, given=bad)


def test_strings_are_embedded_as_they_are_cut(inverter: Inverter, vectors: np.ndarray) -> None:
    found = inverter.invert_strings(["The OLD man, and the sea, and the sky, and more"])[0]
    assert found.original == "the old man , and the sea ,"
    assert len(inverter.tokenizer.encode([found.original])[0]) == inverter.max_length
    direct = inverter.invert(inverter.encoder.encode([found.original]))[0]
    assert direct == dataclasses.replace(found, original=None)
    assert texts_of(inverter.invert_strings(TEXTS)) == texts_of(inverter.invert(vectors))
    assert len(inverter.invert_strings("a single string")) == 1
    assert inverter.invert_strings([]) == []
    for bad in (["fine", ""], ["fine", "漢字"], ["fine", "[MASK]"]):
        with pytest.raises(InputError, match="Text 1"):
            inverter.invert_strings(bad)


def test_a_stream_ends_with_what_invert_returns(inverter: Inverter, vectors: np.ndarray) -> None:
    for options in ({}, {"strategy": "left-to-right"}, {"strategy": "left-to-right", "beam": 3}, {"temperature": 1.0}):
        steps = list(inverter.stream(vectors[1], **options))
        assert steps[-1].final and len(steps) > 1
        assert steps[-1].ids == inverter.invert(vectors[1], **options)[0].token_ids
    with pytest.raises(InputError, match="4 vectors"):
        inverter.stream(vectors)
    with pytest.raises(InputError, match="dimension 5"):
        inverter.stream(np.ones(5))


def test_an_encoder_that_does_not_match_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    parts = load_checkpoint(checkpoint)
    identity = json.loads(json.dumps(parts.identity))
    identity["probe_vectors"][0] = identity["probe_vectors"][1]
    save_checkpoint(tmp_path / "other", parts.denoiser, parts.tokenizer_json, identity, {})
    other = Inverter.from_pretrained(tmp_path / "other", device="cpu")
    assert len(other.invert(np.ones(24))) == 1  # vectors alone need no encoder
    with pytest.raises(EncoderMismatchError, match="cosine"):
        other.invert_strings(["the sea"])


def test_checkpoints_that_cannot_be_used_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Inverter.from_pretrained("nowhere")
    with pytest.raises(CheckpointError):
        Inverter.from_pretrained(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    shard = next(broken.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        Inverter.from_pretrained(broken)
    assert isinstance(caught.value, UnembedError) and caught.value.do


def test_a_damaged_calibration_is_named(checkpoint: Path) -> None:
    parts = load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="calibration"):
        Inverter(dataclasses.replace(parts, calibration={"adaptive": {"features": ["x"]}}))


def test_names_of_checkpoints(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.checkpoint.shipped.WEIGHTS", tmp_path)
    assert shipped_names() == []
    with pytest.raises(CheckpointError, match="ships"):
        find_checkpoint("default")
    (tmp_path / "minilm").mkdir()
    write_json(tmp_path / "minilm" / "config.json", {})
    assert find_checkpoint("default") == find_checkpoint("minilm") == tmp_path / "minilm"
    assert find_checkpoint(checkpoint) == checkpoint


def test_the_config_names_every_option(inverter: Inverter, vectors: np.ndarray) -> None:
    config = dataclasses.asdict(DecodeConfig(passes=2))
    assert texts_of(inverter.invert(vectors, **config)) == texts_of(inverter.invert(vectors, passes=2))


def test_a_checkpoint_names_its_best_decode(checkpoint: Path) -> None:
    """The stored strategy and options hold unless another strategy is asked for; sampling drops the stored beam."""
    inverter = Inverter.from_pretrained(checkpoint, device="cpu")
    assert inverter.resolve({}).strategy == "adaptive"
    inverter.model.defaults = {"strategy": "draft-correct", "beam": 4, "passes": 3}
    chosen = inverter.resolve({})
    assert (chosen.strategy, chosen.beam, chosen.passes) == ("draft-correct", 4, 3)
    assert inverter.resolve({"passes": 5}).passes == 5
    assert inverter.resolve({"strategy": "draft-correct"}).beam == 4
    other = inverter.resolve({"strategy": "euler"})
    assert (other.beam, other.passes) == (1, 8)
    sampled = inverter.resolve({"samples": 4, "temperature": 0.5})
    assert (sampled.strategy, sampled.beam) == ("draft-correct", 1)
    with pytest.raises(InputError, match="temprature"):
        inverter.resolve({"temprature": 1})
