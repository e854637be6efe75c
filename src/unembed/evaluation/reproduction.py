"""Runs the tables of arXiv 2602.11047 on models that are at hand, one cell at a time, into one JSON file.

- `Subject`: a checkpoint under a name, with the set that it is scored on.
- `Reproduction`: the file of cells; a cell of the same checkpoint, texts and options is not run again.
- `run_models`, `run_remasking`, `run_baselines`, `run_milestones`, `run_sentence`, `run_languages`: the tables.

The page is made from the file alone: `paper_page.render`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.errors import DataError
from unembed.evaluation.baselines import BASELINES, run_baseline
from unembed.evaluation.harness import Setting, evaluate_baseline, evaluate_set
from unembed.evaluation.paper_facts import REMASKING, SENTENCE
from unembed.evaluation.sets import EvaluationSet, TrainingSample
from unembed.files import PRIVATE, read_json, write_json
from unembed.machine import describe

if TYPE_CHECKING:
    from unembed.inverter import Inverter

FORMAT = 1
RATE = 0.1
"""The share of masked tokens that the paper's released code scores its "token accuracy" at."""

PAPER_STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"passes": 32, "lengths": 1},
    "euler": {"passes": 8, "lengths": 1},
    "euler-remask": {"passes": 8, "lengths": 1},
    "two-stage": {"passes": 40, "lengths": 1},
}
"""The paper's four strategies, with the passes that it names: 32 sequential, 8 Euler, and both stages together.

It decodes one canvas of a fixed size; here that is one length, the likeliest, and not the several that are our default.
"""

_KEPT = (
    "kind", "name", "seed", "data", "encoder", "checkpoint", "strategy", "options", "lengths", "passes", "queries",
    "seconds", "texts_per_second", "metrics", "floors", "bootstrap",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model under a name.

    Attributes:
        name: in tables.
        inverter: the loaded checkpoint.
        data: the set that it is scored on, already cut to n texts.
        notes: what its checkpoint says of its training.
        recipe: the resolved recipe of its training.
    """

    name: str
    inverter: Inverter
    data: EvaluationSet
    notes: Mapping[str, Any]
    recipe: Mapping[str, Any]


class Reproduction:
    """The cells, kept in a JSON file that is written after each of them.

    Args:
        path: the file; cells that it holds already are kept.
        seed: of decoding, masks and intervals.
        batch_size: vectors decoded together; None for the inverter's own choice.
        again: run cells again that are there.
        report: called with the name of each cell before it is run.
    """

    def __init__(
        self,
        path: str | Path,
        seed: int = 0,
        batch_size: int | None = None,
        again: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.path, self.seed, self.batch_size, self.again = Path(path), seed, batch_size, again
        self._report = report or (lambda name: None)
        old = read_json(self.path) if self.path.exists() else {"format": FORMAT, "cells": {}, "models": {}}
        if not isinstance(old, dict) or not isinstance(old.get("cells"), dict):
            raise DataError(f"{self.path} holds something other than cells.", "Give the cells another file.")
        fits = old.get("format") == FORMAT
        self.values: dict[str, Any] = old if fits else {"format": FORMAT, "cells": {}, "models": {}}
        for kept in self.values["cells"].values():
            options = kept["stamp"].get("options", {})
            options.pop("score", None)  # options that are gone; every cell had the same score
            if options.get("keep") == 0:
                del options["keep"]

    def cell(self, name: str, stamp: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        """Run `make` and keep what it returns, unless a cell of the same stamp is there.

        Args:
            name: of the cell.
            stamp: everything that fixes the result; compared with the stamp of a kept cell.
            make: returns JSON values.
        """
        self._report(name)
        stamp = {"seed": self.seed, **stamp}
        old = self.values["cells"].get(name)
        if old is not None and old["stamp"] == stamp and not self.again:
            return
        self.values["cells"][name] = {"stamp": stamp, "machine": describe()["summary"], **make()}
        self.save()

    def model(self, subject: Subject, role: str = "model") -> None:
        """Keep what is known of a model: its size, its training, its encoder."""
        inverter, notes = subject.inverter, subject.notes
        config = inverter.denoiser.config
        metrics = notes.get("metrics") or {}
        self.values["models"][subject.name] = {
            "role": role,
            "checkpoint": inverter.sha256,
            "encoder": inverter.identity.name,
            "dimension": config.vector_dim,
            "vocabulary": config.vocab_size,
            "limit": config.max_length,
            "config": config.to_dict(),
            "parameters": inverter.denoiser.parameter_counts(),
            "steps": notes.get("steps"),
            "texts_seen": notes.get("texts_seen"),
            "seconds": notes.get("seconds"),
            "bound": metrics.get("bound"),
            "causal_nll": metrics.get("causal_nll"),
        }
        self.save()

    def save(self) -> None:
        """Write the file, whole."""
        write_json(self.path, self.values, PRIVATE)  # it holds examples

    def strategy(self, name: str, subject: Subject, setting: Setting, rates: Sequence[float] = ()) -> None:
        """One setting on a subject's set, as a cell."""
        data, inverter = subject.data, subject.inverter
        config = inverter.resolve({"strategy": setting.strategy, "seed": self.seed, **setting.options})
        stamp = {**_stamp(subject), "options": asdict(config), "rates": list(rates)}

        def make() -> dict[str, Any]:
            result = evaluate_set(
                inverter,
                data,
                setting,
                encoder=inverter.encoder,
                rates=rates,
                seed=self.seed,
                batch_size=self.batch_size,
            )
            return {key: result[key] for key in _KEPT if key in result}

        self.cell(name, stamp, make)


def _stamp(subject: Subject) -> dict[str, Any]:
    data = subject.data
    return {
        "checkpoint": subject.inverter.sha256,
        "precision": subject.inverter.precision,
        "data": {"name": data.name, "n": len(data), "of": data.of, "seed": data.seed},
    }


def run_models(run: Reproduction, subjects: Sequence[Subject]) -> None:
    """Tables 1 and 2: each model with the paper's four strategies, and with its own default beside them."""
    for subject in subjects:
        run.model(subject)
        for strategy, options in PAPER_STRATEGIES.items():
            rates = (RATE, 1.0) if strategy == "sequential" else ()
            run.strategy(f"strategy/{subject.name}/{strategy}", subject, Setting(strategy, options), rates)
        default = subject.inverter.resolve({}).strategy
        run.strategy(f"strategy/{subject.name}/default", subject, Setting(default, default=True))


def run_remasking(run: Reproduction, subject: Subject) -> None:
    """Table 3: Euler with each re-masking probability, at 8 passes (the paper's) and at 32."""
    for passes in (8, 32):
        for probability in REMASKING:
            options = {"passes": passes, "remask": probability, "lengths": 1}
            run.strategy(f"remask/{passes}/{probability}", subject, Setting("euler-remask", options))


def run_baselines(run: Reproduction, subject: Subject, sample: TrainingSample) -> None:
    """The paper's baselines, random tokens and the unconditional model, and the nearest training text."""
    inverter, data = subject.inverter, subject.data
    config = replace(inverter.resolve({}), seed=run.seed)
    stamp = {**_stamp(subject), "neighbours": len(sample), "of": sample.of, "drawn": sample.seed}
    for name in BASELINES[:3]:

        def make(name: str = name) -> dict[str, Any]:
            preds, passes, seconds = run_baseline(name, inverter, data, sample, config, run.seed)
            known: dict[str, Any] = {"encoder": inverter.encoder, "seed": run.seed}
            result = evaluate_baseline(name, preds, inverter, data, seconds=seconds, passes=passes, **known)
            return {key: result[key] for key in _KEPT if key in result}

        run.cell(f"baseline/{name}", stamp, make)


def run_milestones(run: Reproduction, subjects: Sequence[Subject]) -> None:
    """Table 5: checkpoints of one run, each with sequential greedy decoding."""
    for subject in subjects:
        run.model(subject, role="milestone")
        options = PAPER_STRATEGIES["sequential"]
        run.strategy(f"milestone/{subject.name}", subject, Setting("sequential", options), (RATE, 1.0))


def run_sentence(run: Reproduction, subject: Subject, text: str = SENTENCE) -> None:
    """Table 6: the paper's sentence with each of its strategies, and with the model's default."""
    settings: dict[str, dict[str, Any]] = {**PAPER_STRATEGIES, "default": {}}
    for strategy, options in settings.items():
        chosen = {} if strategy == "default" else {"strategy": strategy, **options}
        _examples(run, f"sentence/{strategy}", subject, [text], chosen)


def run_languages(run: Reproduction, subject: Subject, sets: Mapping[str, EvaluationSet], shown: int = 1) -> None:
    """Tables 7 to 9: a set for each language, sequential greedy, with its first texts as examples.

    Args:
        run: the file.
        subject: a model for an encoder of several languages; its own set is not used.
        sets: language -> set.
        shown: texts of each language that are shown.
    """
    run.model(subject, role="multilingual")
    for language, data in sets.items():
        part = replace(subject, data=data)
        for strategy, options in PAPER_STRATEGIES.items():
            name = f"language/{subject.name}/{language}/{strategy}"
            run.strategy(name, part, Setting(strategy, options), (RATE,) if strategy == "sequential" else ())
        texts = [subject.inverter.tokenizer.decode(list(row)) for row in data.ids[:shown]]
        chosen = {"strategy": "sequential", **PAPER_STRATEGIES["sequential"]}
        _examples(run, f"language-example/{subject.name}/{language}", part, texts, chosen)


def _examples(run: Reproduction, name: str, subject: Subject, texts: Sequence[str], options: dict[str, Any]) -> None:
    from unembed.metrics.cosine import row_cosine
    from unembed.metrics.text import id_statistics

    inverter = subject.inverter
    config = inverter.resolve({"seed": run.seed, **options})
    stamp = {"checkpoint": inverter.sha256, "precision": inverter.precision}

    def make() -> dict[str, Any]:
        found = inverter.invert_strings(list(texts), seed=run.seed, **options)
        again = inverter.encoder.encode([r.text for r in found])
        cosine = row_cosine(again, inverter.encoder.encode([r.original or "" for r in found]))
        references = [
            part.ids if part else () for part in inverter.tokenizer.truncate(list(texts), inverter.max_length)
        ]
        f1 = id_statistics([r.token_ids for r in found], references)["token_f1"].per_text
        rows = [
            {
                "original": recovery.original,
                "text": recovery.text,
                "cosine": float(cosine[i]),
                "token_f1": float(f1[i]),
                "passes": recovery.passes,
                "queries": recovery.queries,
            }
            for i, recovery in enumerate(found)
        ]
        return {"kind": "examples", "encoder": inverter.identity.name, "strategy": config.strategy, "rows": rows}

    run.cell(name, {**stamp, "texts": list(texts), "options": asdict(config)}, make)
