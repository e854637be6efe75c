"""What damage to vectors costs search, what tokens a text shares by chance, and what training for the damage wins back.

    python -m benchmarks.robustness.damage --documents english-test.tsv.zst --queries english-validation.tsv.zst \
        --train english-train-000.tsv.zst --out src/unembed/serve/static/damage.json

The page of `unembed serve` reads the file; `docs/page.md` gets a table of `trained`.

- `search`: recall@10 for each combination of noise (its length over that of the vector), bits and dimensions: the share
  of the ten documents nearest to a query, by cosine of whole vectors, that are still among its ten nearest when the
  stored vectors are damaged. Queries stay whole. Damage is done by `unembed.serve.results`.
- `chance`: tokens of what comes back from vectors of other texts. What a text shares with them, it shares by chance.
- `trained`: the share of a text's tokens that the closed-form part of the model names (as many likeliest ones as the
  text has), fitted on whole vectors and on vectors with the damage, both read with the damage.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import emit, machine
from reports.marks import fill
from unembed.data.sources import read_texts
from unembed.evaluation.tables import cell, table
from unembed.files import atomic_write_bytes
from unembed.inverter import Inverter
from unembed.metrics.bootstrap import Statistic, summary
from unembed.priors.fit import ClosedForm, fit_closed_form
from unembed.serve.results import change_vectors

NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5)
BITS = (32, 16, 8, 6, 5, 4, 3, 2, 1)
DIMENSIONS = (8, 16, 32, 64, 96, 128, 192, 256, 320, 384)
K = 10
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "noise of half its length": {"noise": 0.5},
    "noise of its length": {"noise": 1.0},
    "2 bits": {"bits": 2},
    "1 bit": {"bits": 1},
    "64 dimensions": {"dimensions": 64},
    "32 dimensions": {"dimensions": 32},
}
BATCH = 256
Texts = tuple[list[list[int]], np.ndarray]


def damaged(vectors: np.ndarray, noise: float = 0.0, bits: int = 32, dimensions: int | None = None) -> np.ndarray:
    """Vectors (n, d) with noise of a share of their length, as the page's sliders have it."""
    kept = dimensions or vectors.shape[1]
    return change_vectors(vectors, kept, noise / kept**0.5, bits)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def nearest(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(n, K) the nearest documents of each query by cosine."""
    return np.argpartition(-(queries @ unit(documents).T), K, axis=1)[:, :K]


def recall(queries: np.ndarray, documents: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of wanted (n, K) that is found."""
    found = nearest(queries, documents)
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, wanted, strict=True)]))


def search(queries: np.ndarray, documents: np.ndarray) -> dict[str, Any]:
    """recall@10 of the whole grid, noise by bits by dimensions."""
    wanted = nearest(queries, documents)
    dimensions = [d for d in DIMENSIONS if d <= documents.shape[1]]
    rows = [
        round(recall(queries, damaged(documents, noise, bits, kept), wanted), 3)
        for noise, bits, kept in itertools.product(NOISE, BITS, dimensions)
    ]
    shape = (len(NOISE), len(BITS), len(dimensions))
    return {
        "metric": f"recall@{K}",
        "queries": len(queries),
        "documents": len(documents),
        "noise": NOISE,
        "bits": BITS,
        "dimensions": dimensions,
        "recall": np.reshape(rows, shape).tolist(),
    }


def taken(inverter: Inverter, path: Path, most: int) -> Texts:
    """Ids and vectors of the first texts of a file, each text once."""
    seen: dict[str, list[int]] = {}
    stream = (text for text, _ in read_texts(path))
    while len(seen) < most and (part := list(itertools.islice(stream, 1024))):
        seen |= {cut.text: cut.ids for cut in inverter.tokenizer.truncate(part, inverter.max_length) if cut is not None}
    texts = list(seen)[:most]
    return [seen[text] for text in texts], np.asarray(inverter.encoder.encode(texts), dtype=np.float32)


def batches(texts: Texts) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Padded ids, lengths and vectors."""
    ids, vectors = texts
    for start in range(0, len(ids), BATCH):
        rows = [torch.tensor(row) for row in ids[start : start + BATCH]]
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        yield padded, lengths, torch.from_numpy(vectors[start : start + BATCH])


def named(parts: ClosedForm, texts: Texts) -> np.ndarray:
    """(n,) share of each text's distinct tokens among as many likeliest ones."""
    ids, vectors = texts
    shares = []
    for start in range(0, len(ids), BATCH):
        scores = parts.token_prior.scores(parts.whitening(torch.from_numpy(vectors[start : start + BATCH])))
        for row, own in zip(scores, ids[start : start + BATCH], strict=True):
            there = set(own)
            shares.append(len(there & set(row.topk(len(there)).indices.tolist())) / len(there))
    return np.array(shares)


def trained(inverter: Inverter, train: Texts, test: Texts) -> dict[str, Any]:
    """What fitting on the damage wins back, for each of `CHANGES`."""
    size, max_length = inverter.tokenizer.size, inverter.max_length
    whole = fit_closed_form(batches(train), size, max_length)
    found: dict[str, Any] = {}
    for name, change in CHANGES.items():
        read = test[0], damaged(test[1], **change)
        own = fit_closed_form(batches((train[0], damaged(train[1], **change))), size, max_length)
        as_it_is, for_it = named(whole, read), named(own, read)
        found[name] = {
            "change": change,
            "fitted_on_whole": summary(Statistic.mean(as_it_is)),
            "fitted_on_change": summary(Statistic.mean(for_it)),
            "more": summary(Statistic.mean(for_it - as_it_is)),
        }
        emit({name: found[name]})
    return found


def won_back(found: dict[str, Any]) -> str:
    """The table of `trained`, with what search loses by the same damage."""
    search = found["search"]
    rows = []
    for name, row in found["trained"]["by"].items():
        wanted = {"noise": 0.0, "bits": 32, "dimensions": max(search["dimensions"]), **row["change"]}
        i, j, k = (search[axis].index(wanted[axis]) for axis in ("noise", "bits", "dimensions"))
        parts = (cell(key, row[key]) for key in ("fitted_on_whole", "fitted_on_change"))
        rows.append([name, f"{search['recall'][i][j][k]:.2f}", *parts])
    about = (
        "Share of a text's distinct tokens that the closed-form part of the model names, fitted on "
        f"{found['trained']['texts']:,} texts and read on {found['trained']['read']:,} others, with 95% bootstrap "
        f"intervals, beside recall@10 of search over {search['documents']:,} texts with the same damage. Measured by "
        "`benchmarks/robustness/damage.py`.\n"
    )
    return "\n".join([about, table(["damage", "recall@10", "fitted on whole vectors", "fitted on these"], rows)])


def write(path: Path, found: dict[str, Any]) -> None:
    """A line for each part: the page reads the file, people read its beginning."""
    lines = [f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False)}" for name, part in found.items()]
    atomic_write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("-n", type=int, default=10_000, help="documents")
    parser.add_argument("--asked", type=int, default=300, help="queries")
    parser.add_argument("--fitted", type=int, default=60_000, help="texts that the closed-form part is fitted on")
    parser.add_argument("--chance", type=int, default=100, help="other texts")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision="fp32")
    documents = taken(inverter, args.documents, args.n)
    queries = taken(inverter, args.queries, args.asked)
    back = inverter.invert(documents[1][: args.chance])
    found = {
        "encoder": inverter.identity.name,
        "model": inverter.sha256,
        "texts": {"documents": args.documents.name, "queries": args.queries.name, "train": args.train.name},
        "machine": machine()["summary"],
        "chance": [inverter.tokenizer.tokens(recovery.token_ids) for recovery in back],
        "search": search(queries[1], documents[1]),
    }
    write(args.out, found)
    train = taken(inverter, args.train, args.fitted)
    found["trained"] = {"texts": len(train[0]), "read": 1000, "by": {}}
    found["trained"]["by"] = trained(inverter, train, (documents[0][:1000], documents[1][:1000]))
    write(args.out, found)
    fill("docs/page.md", "damage-trained", won_back(found))


if __name__ == "__main__":
    main()
