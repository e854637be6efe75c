"""What smaller storage costs: MiB, nats on held-out texts, drafts and load seconds of a model stored in several ways.

    python -m benchmarks.speed.storage --data shards/validation --out docs/results/storage.json

The denoiser is stored and loaded again in each way and scored on the same texts with the same masks: the bound and left
to right, nats a token over the whole vocabulary, with paired differences from the model as it is; and `token_f1` of
left-to-right drafts. The student is scored by its cosine to the encoder, the corrector by the nats left to right of a
text given the greedy draft of it and that draft's vector.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import emit, machine
from unembed.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unembed.checkpoint.codec import coarse, decode, encode, plan_for
from unembed.checkpoint.corrector_file import read_corrector, write_corrector
from unembed.checkpoint.shipped import find_checkpoint
from unembed.checkpoint.student_file import STUDENT_FILE, StudentFile, read_student, write_student
from unembed.data.feed import Feed
from unembed.data.shards import ShardDataset
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode as draft
from unembed.evaluation.sets import EvaluationSet
from unembed.files import write_json
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.text import id_statistics
from unembed.network.corrector import Corrector
from unembed.network.denoiser import Denoiser
from unembed.priors.token_prior import quantise_rows, squares
from unembed.refinement.forecast import Forecaster
from unembed.training.losses.rows import full_columns, prepare_causal, prepare_masked, rows_loss

State = dict[str, Tensor]
DRAFTED = ("int6", "matrices in 4 bits, groups of 32")
EXACT = ("whitening.matrix", "token_prior.counts")
CODES, SCALE, SQUARE = "token_prior.codes", "token_prior.scale", "token_prior.square"
CLIPS = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.925, 0.9)
BATCH = 50


def stored_bytes(stored: State) -> int:
    """Bytes of all tensors."""
    return sum(value.numel() * value.element_size() for value in stored.values())


def by_plan(dtype: str, prior: str = "") -> Callable[[State], tuple[int, State]]:
    """Store as `save_checkpoint` does; `prior` is another kind for the token prior's codes."""
    usual = plan_for(dtype, EXACT)

    def store(state: State) -> tuple[int, State]:
        stored = encode(state, lambda name, value: prior if prior and name == CODES else usual(name, value))
        stored.pop(SQUARE)
        return stored_bytes(stored), decode(stored)

    return store


def matrices_of(state: State) -> list[str]:
    """Names of what "int6" stores in 6 bits."""
    plan = plan_for("int6", EXACT)
    return [name for name, value in state.items() if plan(name, value) == "int6"]


def clipped(rows: Tensor) -> Tensor:
    """Rows in 6 bits, each with the clip of `CLIPS` that has the least squared error."""
    best = torch.full((len(rows),), torch.inf)
    out = torch.zeros_like(rows)
    for clip in CLIPS:
        scale = (rows.abs().amax(1) * clip / 31).clamp(min=1e-12)[:, None]
        tried = (rows / scale).round().clamp(-31, 31) * scale
        error = (tried - rows).square().sum(1)
        out[error < best] = tried[error < best]
        best = torch.minimum(best, error)
    return out


def searched(state: State) -> tuple[int, State]:
    """6 bits with the clip searched for; the size is that of "int6"."""
    size, out = by_plan("int6")(state)
    return size, out | {name: clipped(state[name]) for name in matrices_of(state)}


def grouped(codes: Tensor, group: int = 32) -> tuple[int, Tensor]:
    """int8 codes in 4 bits with a factor a group: bytes, and the codes that come back."""
    small, factor = coarse(codes, group)
    back = small.view(*factor.shape, -1) * factor.to(torch.int8)[..., None]
    return small.numel() // 2 + factor.numel(), back.view(codes.shape)


def prior_by_groups(state: State) -> tuple[int, State]:
    """6 bits, and the token prior in 4 bits with a factor a group of 32."""
    size, out = by_plan("int6")({name: value for name, value in state.items() if name != CODES})
    more, codes = grouped(state[CODES])
    return size + more, out | {CODES: codes}


def four_bits(state: State) -> tuple[int, State]:
    """Matrices in 4 bits, with a factor a group of 32 and a scale a row."""
    names = matrices_of(state)
    rest = {name: value for name, value in state.items() if name not in names}
    size, out = by_plan("int6")(rest)
    for name in names:
        codes, scale = quantise_rows(state[name])
        more, codes = grouped(codes, min(32, codes.shape[1]))
        size += more + 4 * len(scale)
        out[name] = codes.float() * scale[:, None]
    return size, out


WAYS = {
    "int8": by_plan("int8"),
    "int6, prior int8": by_plan("int6", prior="exact"),
    "int6": by_plan("int6"),
    "int6, clips searched": searched,
    "int6, prior in groups of 32": prior_by_groups,
    "matrices in 4 bits, groups of 32": four_bits,
}


class Scorer:
    """Nats and drafts of a denoiser on held-out texts, the same masks every time.

    Args:
        dataset: held-out shards.
        rows: (N,) of the texts.
        seed: of batches and masks.
        decoded: texts to draft.
    """

    def __init__(self, dataset: ShardDataset, rows: np.ndarray, seed: int, decoded: int) -> None:
        feed = Feed(dataset, 64, seed, rows)
        self._groups = [feed.at(i) for i in range(feed.batches_per_epoch)]
        self._seed = seed
        ids, lengths, vectors = dataset.gather(np.sort(rows[:decoded]))
        self._texts = [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]
        self._vectors = torch.from_numpy(vectors)

    @torch.no_grad()
    def nats(self, denoiser: Denoiser) -> dict[str, np.ndarray]:
        """`bound` and `causal_nll` as `training.validation` has them, for each text: (n, 2), nats and tokens."""
        c = denoiser.config
        generator = torch.Generator().manual_seed(self._seed)
        found: dict[str, list[Tensor]] = {"bound": [], "causal_nll": []}
        for group in self._groups:
            ids = torch.from_numpy(group.ids)
            condition = denoiser.condition(torch.from_numpy(group.vectors))
            masked, causal = prepare_masked(ids, generator, "bound"), prepare_causal(ids, c.bos_id, c.eos_id)
            for name, rows in (("bound", masked), ("causal_nll", causal)):
                nats = rows_loss(denoiser, condition, rows, full_columns(denoiser, rows.causal))[1]
                sums = torch.zeros(len(ids)).index_add_(0, rows.owner, nats * rows.weights)
                found[name].append(torch.stack((sums, torch.full_like(sums, ids.shape[1] + rows.causal)), dim=1))
        return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}

    def drafts(self, denoiser: Denoiser) -> Statistic:
        """`token_f1` of left-to-right drafts with a beam of 4."""
        config = DecodeConfig(strategy="left-to-right", beam=4)
        found = [
            list(d.ids)
            for i in range(0, len(self._texts), BATCH)
            for d in draft(denoiser, self._vectors[i : i + BATCH], config)
        ]
        return id_statistics(found, self._texts)["token_f1"]


def difference(rows: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Value, low and high of paired differences."""
    return summary(Statistic(np.stack([rows[:, 0] - base[:, 0], base[:, 1]], axis=1)))


def load_seconds(checkpoint: Checkpoint, dtype: str, tries: int = 5) -> dict[str, float]:
    """A whole checkpoint written with a dtype: MiB of its weights, seconds to write and to load (median)."""
    with tempfile.TemporaryDirectory() as folder:
        c = checkpoint
        began = time.perf_counter()
        save_checkpoint(folder, c.denoiser, c.tokenizer_json, c.identity, c.recipe, dtype=dtype)
        out = {"write_seconds": time.perf_counter() - began}
        out["mib"] = sum(path.stat().st_size for path in Path(folder).glob("model-*")) / 2**20
        seconds = []
        for _ in range(tries):
            began = time.perf_counter()
            load_checkpoint(folder)
            seconds.append(time.perf_counter() - began)
    return out | {"load_seconds": statistics.median(seconds)}


def denoisers(checkpoint: Checkpoint, scorer: Scorer) -> dict[str, Any]:
    """Every way of `WAYS`."""
    network = copy.deepcopy(checkpoint.denoiser)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    base, drafted = scorer.nats(network), scorer.drafts(network)
    found: dict[str, Any] = {
        "as it is": {
            **{name: Statistic(rows).value for name, rows in base.items()},
            "left-to-right/token_f1": summary(drafted),
        }
    }
    for name, store in WAYS.items():
        size, out = store(state)
        network.load_state_dict(out | {SQUARE: squares(out[CODES], out[SCALE])})
        nats = scorer.nats(network)
        matrices = matrices_of(state)
        lost = sum(float((out[m] - state[m]).square().sum()) for m in matrices)
        found[name] = {
            "mib": size / 2**20,
            "relative_error_of_matrices": (lost / sum(float(state[m].square().sum()) for m in matrices)) ** 0.5,
            **{metric: Statistic(rows).value for metric, rows in nats.items()},
            **{f"{metric}/more": difference(rows, base[metric]) for metric, rows in nats.items()},
        }
        if name in DRAFTED:
            f1 = scorer.drafts(network)
            found[name]["left-to-right/token_f1"] = summary(f1)
            found[name]["left-to-right/token_f1/more"] = summary(Statistic.mean(f1.per_text - drafted.per_text))
        emit({name: found[name]})
    for dtype in ("fp16", "int8", "int6"):
        found.setdefault(dtype, {})["checkpoint"] = load_seconds(checkpoint, dtype)
    return found


def students(inverter: Inverter, data: EvaluationSet) -> dict[str, Any]:
    """Cosine of the student to the encoder, stored in each dtype."""
    assert inverter.student is not None
    target = torch.nn.functional.normalize(torch.from_numpy(data.vectors).float(), dim=1)
    table = inverter.denoiser.embedding.weight
    found: dict[str, Any] = {}
    first = None
    for dtype in ("as it is", "int8", "int6"):
        student, row = inverter.student.student, {}
        if dtype != "as it is":
            with tempfile.TemporaryDirectory() as folder:
                write_student(folder, StudentFile(student), "x", dtype)
                row["mib"] = (Path(folder) / STUDENT_FILE).stat().st_size / 2**20
                read = read_student(folder, "x")
            assert read is not None
            student = read.student
        own = Forecaster(student, table, target, table.dtype).encode([tuple(ids) for ids in data.ids])
        cosine = (own * target).sum(1).double().numpy()
        first = cosine if first is None else first
        row |= {"cosine": summary(Statistic.mean(cosine)), "cosine/more": summary(Statistic.mean(cosine - first))}
        found[dtype] = row
    return found


@torch.no_grad()
def corrected_nats(
    corrector: Corrector | None, denoiser: Denoiser, data: EvaluationSet, drafts: list[tuple[int, ...]], own: np.ndarray
) -> np.ndarray:
    """(n, 2) nats left to right of each text given its draft, and its tokens with the end; None: without the draft."""
    c = denoiser.config
    rows = []
    for start in range(0, len(data), BATCH):
        part = slice(start, start + BATCH)
        condition = denoiser.condition(torch.from_numpy(data.vectors[part]))
        if corrector is not None:
            lengths = torch.tensor([len(ids) for ids in drafts[part]])
            padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in drafts[part]], batch_first=True)
            condition = corrector(condition, padded, lengths, torch.from_numpy(own[part]))
        texts = [torch.tensor([*ids, c.eos_id]) for ids in data.ids[part]]
        wanted = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=c.eos_id)
        inside = torch.arange(wanted.shape[1]) < torch.tensor([len(ids) for ids in texts])[:, None]
        last, state = torch.full((len(texts),), c.bos_id), denoiser.start_causal(condition)
        nats = torch.zeros(len(texts))
        for i in range(wanted.shape[1]):
            logits, state = denoiser.next_logits(last, state)
            last = wanted[:, i]
            nats += torch.nn.functional.cross_entropy(logits, last, reduction="none") * inside[:, i]
        rows.append(torch.stack((nats, inside.sum(1)), dim=1).double().numpy())
    return np.concatenate(rows)


def correctors(inverter: Inverter, data: EvaluationSet) -> dict[str, Any]:
    """Nats left to right of the corrector, stored in each dtype."""
    corrector, denoiser = inverter.corrector, inverter.denoiser
    assert corrector is not None
    drafts = [d.ids for d in inverter.drafts(data.vectors, strategy="left-to-right", beam=1)]
    texts = [inverter.tokenizer.decode(list(ids)) for ids in drafts]
    own = np.asarray(inverter.encoder.encode(texts), dtype=np.float32)
    alone = corrected_nats(None, denoiser, data, drafts, own)
    base = corrected_nats(corrector, denoiser, data, drafts, own)
    found: dict[str, Any] = {
        "no draft": {"causal_nll": Statistic(alone).value},
        "as it is": {"causal_nll": Statistic(base).value},
    }
    for dtype in ("int8", "int6"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "corrector.safetensors"
            write_corrector(path, corrector, dtype=dtype)
            size = path.stat().st_size / 2**20
            nats = corrected_nats(read_corrector(path, denoiser), denoiser, data, drafts, own)
        found[dtype] = {"mib": size, "causal_nll": Statistic(nats).value, "causal_nll/more": difference(nats, base)}
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", required=True, help="validation shards")
    parser.add_argument("-n", type=int, default=1000, help="texts of the nats and of the student")
    parser.add_argument("--decoded", type=int, default=300, help="texts of the drafts and of the corrector")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=["denoiser", "student", "corrector"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision="fp32")
    checkpoint = load_checkpoint(find_checkpoint(args.model))
    dataset = ShardDataset(args.data)
    excluded = checkpoint.recipe.get("data", {}).get("exclude_sources", [])
    kept = np.flatnonzero([dataset.source_names[i] not in excluded for i in np.asarray(dataset.sources)])
    rows = np.random.default_rng(args.seed).permutation(kept)[: args.n]
    ids, lengths, vectors = dataset.gather(rows)
    texts = [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]
    data = EvaluationSet("english-validation", texts, vectors)
    first = EvaluationSet(data.name, texts[: args.decoded], vectors[: args.decoded])
    found: dict[str, Any] = {
        "model": inverter.sha256,
        "data": {"name": data.name, "n": len(data), "decoded": len(first), "seed": args.seed},
        "machine": machine(),
    }
    if "denoiser" in args.parts:
        found["denoiser"] = denoisers(checkpoint, Scorer(dataset, rows, args.seed, args.decoded))
    if "student" in args.parts and inverter.student is not None:
        found["student"] = students(inverter, data)
    if "corrector" in args.parts and inverter.corrector is not None:
        found["corrector"] = correctors(inverter, first)
    write_json(args.out, found)
    emit({name: found[name] for name in ("student", "corrector") if name in found})


if __name__ == "__main__":
    main()
