"""Do vectors fit the model? Fits the statistics that ship, and measures them on vectors that fit and that do not.

    python -m benchmarks.experiments.fit vectors --corpus ../shared/corpus --folder /tmp/fit
    python -m benchmarks.experiments.fit statistics --folder /tmp/fit
    python -m benchmarks.experiments.fit measure --folder /tmp/fit

`vectors` embeds, once, what the other two need: usual texts, cut to the limit, of training, validation and test; chunks
(a line with its nearest lines of the same source behind it, by TF-IDF, cut to 45 to 150 words for training and to 55
for validation and test); lines of nine other languages; and of the usual texts vectors pooled from the first token.
Rotated, random and noisy vectors are made of these when they are needed. `statistics` writes fit-score.safetensors
into the model that ships: the classifiers learn from training texts, the shares and what comes true of the confidence
from validation texts. `measure` writes docs/results/fit.json and fit.svg from the test texts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine
from reports.marks import fill
from unembed.checkpoint.checkpoint import add_fit_score
from unembed.data.sources import read_texts
from unembed.data.tokenization import Tokenizer
from unembed.decoding.confidence import calibration_for
from unembed.decoding.recovery import recoveries
from unembed.encoders.minilm import load_minilm, minilm_tokenizer_json
from unembed.evaluation.measure import reliability
from unembed.evaluation.tables import cell, table
from unembed.files import write_json
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.text import token_f1
from unembed.priors.fit_score import LIMIT, FitScore

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {
    "train": ("english-train-001.tsv.zst", "multilingual-train.tsv.zst"),
    "validation": ("english-validation.tsv.zst", "multilingual-validation.tsv.zst"),
    "test": ("english-test.tsv.zst", "multilingual-test.tsv.zst"),
}
COUNTS = {"train": (20_000, 8000, 350), "validation": (3000, 400, 100), "test": (1000, 400, 100)}
NOISE = (0.01, 0.02, 0.03, 0.05)
REASONS = {"chunks": "long", "languages": "language", "first token": "vector", "rotated": "vector", "random": "vector"}


def chunks(rows: list[tuple[str, str]], count: int, words: tuple[int, int], seed: int) -> Iterator[str]:
    """Texts of so many words: a line, then the lines of its source that are nearest to it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(seed)
    by_source: dict[str, list[str]] = {}
    for text, source in rows:
        by_source.setdefault(source, []).append(text)
    sources = [source for source, texts in by_source.items() if len(texts) >= 100]
    matrices = {source: TfidfVectorizer().fit_transform(by_source[source]) for source in sources}
    sizes = np.array([len(by_source[source]) for source in sources], float)
    for source in rng.choice(sources, count, p=sizes / sizes.sum()):
        texts, matrix = by_source[source], matrices[source]
        first, wanted = int(rng.integers(len(texts))), int(rng.integers(words[0], words[1] + 1))
        near = (matrix @ matrix[first].T).toarray().ravel()
        near[first] = 2.0
        found: list[str] = []
        for row in np.argsort(-near)[:20]:
            found += texts[row].split()
            if len(found) >= wanted:
                break
        yield " ".join(found[:wanted])


def first_token(texts: list[str]) -> np.ndarray:
    """Vectors of the same network pooled from its first token instead of the mean, of length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling

    from unembed.encoders.minilm import HUB_NAME, _wheel_folder

    model = SentenceTransformer(str(_wheel_folder() or HUB_NAME), device="cpu")
    pooled = Pooling(model.get_sentence_embedding_dimension(), pooling_mode="cls")
    model[1] = pooled
    return np.asarray(model.encode(texts, normalize_embeddings=True), dtype=np.float32)


def vectors(args: argparse.Namespace) -> None:
    """Embed what is not there yet."""
    encoder, tokenizer = load_minilm(), Tokenizer.from_json(minilm_tokenizer_json())
    args.folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, texts: list[str], found: np.ndarray | None = None) -> None:
        np.savez(args.folder / f"{name}.npz", vectors=encoder.encode(texts) if found is None else found, texts=texts)

    for seed, (split, (english, other)) in enumerate(SPLITS.items()):
        usual, long, each = COUNTS[split]
        rows = list(read_texts(args.corpus / english))
        drawn = np.random.default_rng(seed).permutation(len(rows))[:usual]
        cut = [part.text for part in tokenizer.truncate([rows[i][0] for i in drawn], 32) if part is not None]
        keep(f"{split}-usual", cut)
        keep(f"{split}-chunks", list(chunks(rows[:80_000], long, (45, 150) if split == "train" else (55, 55), seed)))
        spoken: dict[str, list[str]] = {}
        for text, language in read_texts(args.corpus / other, column=-1, source_column=0):
            spoken.setdefault(language, []).append(text)
        keep(
            f"{split}-languages",
            [text for texts in spoken.values() for text in texts[:: max(1, len(texts) // each)][:each]],
        )
        if split != "train":
            keep(f"{split}-first token", cut[:400], first_token(cut[:400]))


class Sets:
    """The sets of a split: usual texts and what is made of them.

    Args:
        folder: that `vectors` filled.
        split: "validation" or "test".
        count: texts a set, at most.
        noise: sizes of the noise, a set each.
    """

    def __init__(self, folder: Path, split: str, count: int, noise: tuple[float, ...] = NOISE) -> None:
        self.vectors: dict[str, np.ndarray] = {}
        self.texts: dict[str, list[str]] = {}
        rng = np.random.default_rng(0)
        for name in ("usual", "chunks", "languages", "first token"):
            with np.load(folder / f"{split}-{name}.npz") as file:
                rows = np.arange(len(file["texts"]))
                rows = np.sort(rng.permutation(rows)[:count]) if name == "languages" else rows[:count]
                self.vectors[name], self.texts[name] = file["vectors"][rows], file["texts"][rows].tolist()
                if name == "usual":
                    every = file["vectors"]
        v, texts = self.vectors["usual"], self.texts["usual"]
        turn = np.linalg.qr(rng.normal(size=(v.shape[1], v.shape[1])))[0]
        made = {"rotated": v @ turn, "random": rng.normal(size=v.shape)}
        made |= {f"noise {size}": v + rng.normal(size=v.shape) * size for size in noise}
        for name, found in made.items():
            unit = found / np.linalg.norm(found, axis=1, keepdims=True)
            self.vectors[name], self.texts[name] = unit.astype(np.float32), texts
        self.every = every


def decoded(inverter: Inverter, sets: Sets, count: int, cache: Path) -> dict[str, dict[str, Any]]:
    """Confidence without the fit, and the token_f1 that came of it, of the first texts of each set; kept in `cache`."""
    told: dict[str, Any] = json.loads(cache.read_text()) if cache.exists() else {}
    for name, rows in sets.vectors.items():
        if name in told:
            continue
        cut = inverter.tokenizer.truncate(sets.texts[name], inverter.max_length)
        known = [i for i, part in enumerate(cut) if part is not None][:count]
        drafts = inverter.drafts(rows[known], progress=True)
        calibration = calibration_for(inverter.model.calibrations, inverter.resolve({}).strategy)
        plain = recoveries(drafts, inverter.tokenizer, calibration)
        scores = [token_f1([draft.ids], [cut[i].ids]) for draft, i in zip(drafts, known, strict=True)]
        told[name] = {"rows": known, "confidence": [one.confidence for one in plain], "token_f1": scores}
        write_json(cache, told)
        print(name, len(known), round(float(np.mean(scores)), 3), flush=True)
    return told


def white(inverter: Inverter, rows: np.ndarray) -> np.ndarray:
    """Whitened vectors."""
    import torch

    with torch.inference_mode():
        return inverter.denoiser.whitening(torch.from_numpy(np.ascontiguousarray(rows, np.float32))).numpy()


def statistics(args: argparse.Namespace) -> None:
    """Fit the classifiers, the shares and the trust, and put the file beside the model."""
    from sklearn.linear_model import LogisticRegression

    inverter = Inverter.from_pretrained(args.model)
    parts = []
    for name in ("usual", "chunks", "languages"):
        with np.load(args.folder / f"train-{name}.npz") as file:
            parts.append(np.clip(white(inverter, file["vectors"]), -6, 6))
    classes = np.repeat(np.arange(3), [len(part) for part in parts])
    model = LogisticRegression(C=0.03, max_iter=500).fit(np.concatenate(parts), classes)
    weights, offsets = model.coef_[1:] - model.coef_[0], model.intercept_[1:] - model.intercept_[0]
    sets = Sets(args.folder, "validation", args.decoded)
    score = FitScore.of(white(inverter, sets.every), weights, offsets, ("long", "language"))
    found = decoded(inverter, sets, args.decoded, args.folder / "drafts-validation.json")
    z, kinds, claimed, true = [], [], [], []
    for name, part in found.items():
        z.append(white(inverter, sets.vectors[name][part["rows"]]))
        kinds += [None if name == "usual" else REASONS.get(name, "vector")] * len(part["rows"])
        claimed += part["confidence"]
        true += part["token_f1"]
    score = score.with_trust(np.concatenate(z), kinds, np.array(claimed), np.array(true))
    add_fit_score(args.model, score)
    for reason, x, y in zip(score.reasons, score.trust_x, score.trust_y, strict=True):
        print(reason, x.round(2).tolist(), y.round(3).tolist())


def measure(args: argparse.Namespace) -> None:
    """ROC of the fit against the usual texts, and the confidence against what came true, set by set."""
    from sklearn.metrics import roc_auc_score, roc_curve

    inverter = Inverter.from_pretrained(args.model)
    sets = Sets(args.folder, "test", args.texts, noise=(0.02,))
    found = decoded(inverter, sets, args.decoded, args.folder / "drafts-test.json")
    judged = {name: inverter.model.judged(np.asarray(rows, np.float32)) for name, rows in sets.vectors.items()}
    usual, rng, rows, curves = judged["usual"].fit, np.random.default_rng(0), [], {}
    for name, one in judged.items():
        both, labels = np.r_[-usual, -one.fit], np.r_[np.zeros(len(usual)), np.ones(len(one.fit))]
        row: dict[str, Any] = {"set": name, "n": len(one.fit), "median_fit": float(np.median(one.fit))}
        row["misfits"] = summary(Statistic.mean((one.fit < LIMIT).astype(float)))
        row["reasons"] = {reason: one.misfit.count(reason) for reason in ("vector", "long", "language")}
        if name != "usual":
            draws = [
                roc_auc_score(labels, both[pick])
                for pick in (
                    np.r_[
                        rng.integers(0, len(usual), len(usual)),
                        len(usual) + rng.integers(0, len(one.fit), len(one.fit)),
                    ]
                    for _ in range(300)
                )
            ]
            low, high = np.quantile(draws, (0.025, 0.975))
            row["roc_auc"] = {"value": float(roc_auc_score(labels, both)), "low": float(low), "high": float(high)}
            curves[name] = roc_curve(labels, both)[:2]
        part = found[name]
        before, trust = np.array(part["confidence"]), one.trust[part["rows"]]
        for key, value in (("before", before), ("after", before * trust), ("token_f1", np.array(part["token_f1"]))):
            row[key] = summary(Statistic.mean(value))
        row["decoded"] = len(before)
        row["ece"] = {
            key: reliability(value, np.array(part["token_f1"]))["ece"]
            for key, value in (("before", before), ("after", before * trust))
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    told = {"checkpoint": {"name": inverter.name, "sha256": inverter.sha256}, "limit": LIMIT, "seed": 0}
    told |= {"data": "english-test, multilingual-test", "strategy": inverter.resolve({}).strategy, "machine": machine()}
    write_json(ROOT / "docs" / "results" / "fit.json", {**told, "sets": rows})
    plot(curves, rows, ROOT / "docs" / "results" / "fit.svg")
    fill(ROOT / "docs" / "inverting.md", "fit", report(rows))


def report(rows: list[dict[str, Any]]) -> str:
    """The table of docs/inverting.md."""
    body = []
    for row in rows:
        auc = f"{row['roc_auc']['value']:.3f}" if "roc_auc" in row else ""
        found = f"{row['misfits']['value']:.3f} [{row['misfits']['low']:.3f}, {row['misfits']['high']:.3f}]"
        shown = [cell("token_f1", row[name]) for name in ("before", "after", "token_f1")]
        body.append([row["set"], str(row["n"]), auc, found, f"{row['median_fit']:.2f}", str(row["decoded"]), *shown])
    head = [
        "vectors of",
        "n",
        "ROC AUC",
        "misfits",
        "median fit",
        "decoded",
        "confidence without the fit",
        "with it",
        "token_f1",
    ]
    return table(head, body)


def plot(curves: dict[str, Any], rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ROC beside the confidence of each set before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (false, true) in curves.items():
        left.plot(np.maximum(false, 1e-3), true, label=name, linewidth=1.2)
    left.axvline(LIMIT, color="0.7", linewidth=1)
    left.set(
        xscale="log",
        title="Fit score: ROC",
        xlabel="share of usual texts taken for misfits",
        ylabel="share of the set found",
    )
    left.legend(fontsize=7)
    right.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for row in rows:
        x = row["token_f1"]["value"]
        y0, y1 = row["before"]["value"], row["after"]["value"]
        right.annotate("", (x, y1), (x, y0), arrowprops={"arrowstyle": "->", "color": "C0"})
        right.plot([x], [y0], "o", color="0.6", markersize=4)
        right.plot([x], [y1], "o", color="C0", markersize=4)
        right.annotate(row["set"], (x, y1), fontsize=7, xytext=(4, -8), textcoords="offset points")
    right.set(
        xlim=(0, 0.8),
        ylim=(0, 0.8),
        title="Confidence, without the fit and with it",
        xlabel="mean token_f1",
        ylabel="mean confidence",
    )
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vectors", "statistics", "measure"))
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--folder", type=Path, required=True, help="where vectors and drafts are kept")
    parser.add_argument("--model", default=str(ROOT / "src" / "unembed" / "weights" / "minilm"))
    parser.add_argument("--texts", type=int, default=400, help="vectors a set, for the ROC")
    parser.add_argument("--decoded", type=int, default=120, help="texts a set that are decoded, for the confidence")
    args = parser.parse_args()
    {"vectors": vectors, "statistics": statistics, "measure": measure}[args.what](args)


if __name__ == "__main__":
    main()
