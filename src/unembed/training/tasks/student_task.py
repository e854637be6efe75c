"""The student encoder as a task: texts and their vectors, and drafts of them with theirs.

Contents: `StudentTask`, `make_student_task`.

A text alone teaches where its vector lies; a pair of a text and a draft of it teaches what a few changed words do to
the vector, which is what forecasts are made of (`refinement/forecast.py`). No weight of the encoder is used, only the
base's token table and whitening.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.checkpoint.student_file import STUDENT_FILE, StudentFile, read_student, write_student
from unembed.data.feed import LengthGroup
from unembed.errors import CheckpointError
from unembed.files import read_json
from unembed.network.student import StudentConfig, StudentEncoder
from unembed.training.pairs.beside import Beside
from unembed.training.pairs.pair_feed import PairBatch, PairFeed
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.task import Part, Task, in_parts


class StudentTask(Task):
    """See `Task`.

    Args:
        beside: base and texts.
        model: the student.
        pairs: texts and drafts; None where only texts are learnt from.
        surrogate: weights of the search's ranking, kept in the file (`refinement/surrogate.py`).
        begun: what the run began from, kept in the notes.
    """

    def __init__(
        self,
        beside: Beside,
        model: StudentEncoder,
        pairs: PairFeed | None,
        surrogate: dict[str, list[float]],
        begun: dict[str, Any],
    ) -> None:
        source = beside.texts.source
        data, feed = (beside.checkpoint.weights, *source.data), source.begin(None)
        super().__init__(beside.recipe, beside.device, beside.precision, model, feed, data, beside.identity)
        self.beside, self.pairs, self.surrogate, self.begun = beside, pairs, surrogate, begun
        self.whitening = beside.base.whitening
        self._drawn = self._positions = 0

    @property
    def batches_per_epoch(self) -> int:
        """See `Task`: as many as hold every pair once, or every text where there are no pairs."""
        if self.pairs is None:
            return super().batches_per_epoch
        return max(1, round(self.pairs.batches_per_epoch / self.recipe.student.paired))

    def _paired(self) -> bool:
        """Whether the next batch is one of pairs: as evenly among the others as their share allows."""
        share = self.recipe.student.paired
        return self.pairs is not None and int((self._drawn + 1) * share) > int(self._drawn * share)

    def trials(self) -> Iterator[Tensor]:
        """See `Task`."""
        place = self.place()
        yield self._of_texts(self.feed.next()[0])
        if self.pairs is not None:
            yield self._of_pairs(self.pairs.next())
        self.restore(place)

    def draw(self) -> list[Part]:
        """See `Task`."""
        paired, self._drawn = self._paired(), self._drawn + 1
        if paired and self.pairs is not None:
            batch = self.pairs.next()
            return [Part(1.0, 2 * len(batch.ids), batch)]
        return in_parts(self.feed.next())

    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """See `Task`: one less the cosine, and what the recipe adds to it."""
        return self._of_pairs(part.values) if isinstance(part.values, PairBatch) else self._of_texts(part.values)

    def _of_texts(self, group: LengthGroup) -> Tensor:
        vectors = torch.from_numpy(group.vectors).to(self.device)
        return self._distance(self._guess(torch.from_numpy(group.ids).to(self.device)), F.normalize(vectors, dim=1))

    def _of_pairs(self, batch: PairBatch) -> Tensor:
        batch = batch.to(self.device)
        target, own = F.normalize(batch.vectors, dim=1), F.normalize(batch.own, dim=1)
        text, draft = self._guess(batch.ids), self._guess(batch.drafts, batch.lengths)
        error = ((draft - text) - (own - target)).square().sum(1).mean()
        both = (self._distance(text, target) + self._distance(draft, own)) / 2
        return both + self.recipe.student.difference * error

    def _guess(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The student's vectors (B, d) of ids (B, n)."""
        self._positions += ids.numel()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found: Tensor = self.model(F.embedding(ids, self.beside.table), lengths)
        return found

    def _distance(self, found: Tensor, target: Tensor) -> Tensor:
        """One less the mean cosine, and the same in whitened space, where word order counts for more."""
        loss = (1 - (found * target).sum(1)).mean()
        weight = self.recipe.student.whitened
        if weight:
            loss = loss + weight * (1 - F.cosine_similarity(self.whitening(found), self.whitening(target))).mean()
        return loss

    def figures(self, decode_until: float | None) -> dict[str, Any]:
        """See `Task`: mean `cosine` to the encoder's vectors of held-out texts."""
        sums, count = 0.0, 0
        for ids, vectors in self.beside.texts.source.validation.batches:
            found = self._guess(torch.from_numpy(ids).to(self.device)).cpu()
            sums += float(F.cosine_similarity(found, torch.from_numpy(vectors)).sum())
            count += len(ids)
        return {"cosine": sums / max(count, 1)}

    def save(self, folder: Path, notes: dict[str, Any], state: dict[str, Tensor]) -> Path:
        """See `Task`: `student.safetensors` and `student.json`."""
        student = StudentEncoder(self.model.config)
        student.load_state_dict(state)
        facts = {**notes, "recipe": self.recipe.told(), "licence": "CC BY-SA 4.0"}
        file = StudentFile(student.eval(), self.surrogate, facts)
        write_student(folder, file, self.beside.checkpoint.sha256, self.recipe.run.store_dtype)
        return folder / STUDENT_FILE

    def notes(self) -> dict[str, Any]:
        """See `Task`."""
        total = sum(p.numel() for p in self.model.parameters())
        found: dict[str, Any] = {
            "base": self.beside.checkpoint.weights,
            "parameters": {"total": total},
            "texts": len(self.beside.texts.source.used),
            "pairs": 0 if self.pairs is None else len(self.pairs.learnt),
            "surrogate": self.surrogate,
        }
        return {**found, **({"begun": self.begun} if self.begun else {})}

    def place(self) -> dict[str, Any]:
        """See `Task`."""
        pairs = None if self.pairs is None else self.pairs.state()
        return {"drawn": self._drawn, "texts": self.feed.state(), "pairs": pairs}

    def restore(self, place: dict[str, Any]) -> None:
        """See `Task`."""
        self._drawn = place["drawn"]
        self.feed.restore(place["texts"])
        if self.pairs is not None:
            self.pairs.restore(place["pairs"])

    def halve(self) -> bool:
        """See `Task`; texts and pairs both."""
        return any([self.feed.halve(), self.pairs is not None and self.pairs.halve()])

    def arithmetic(self) -> dict[str, float]:
        """See `Task`."""
        blocks = sum(p.numel() for p in self.model.blocks.parameters())
        counted = {"positions": float(self._positions), "operations": 6.0 * blocks * self._positions}
        self._positions = 0
        return counted


def make_student_task(
    recipe: Recipe,
    device: torch.device,
    known: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    box: float = 0.0,
) -> StudentTask:
    """Open base, texts and pairs, make the pairs that are absent, and build the student.

    Args:
        recipe: of a student.
        device: where everything goes.
        known: facts of the state that the run continues from, empty for a new run; None for an estimate, which writes
            no pair.
        init_from: folder that holds a student of the same shape, or its file; its base may be an older one.
        box: time box of the session in seconds, half of which may go into pairs; 0 for none.

    Raises:
        RecipeError, DataError, CheckpointError: see `Beside`; a student of another shape.
    """
    beside = Beside(recipe, device)
    part, base = recipe.student, beside.base.config
    torch.manual_seed(recipe.run.seed)
    shape = StudentConfig(
        base.vector_dim, base.max_length, beside.table.shape[1], part.width, part.layers, part.heads, part.mlp
    )
    student = StudentEncoder(shape)
    notes = dict((known or {}).get("notes", {}))
    surrogate, begun = notes.get("surrogate", {}), notes.get("begun", {})
    if init_from is not None:
        found, begun = _first(init_from)
        surrogate = found.surrogate
        if found.student.config != shape:
            raise CheckpointError(
                f"The student in {init_from} has another shape than the recipe's.", "Copy its shape to [student]."
            )
        student.load_state_dict(found.student.state_dict())
    pairs = None
    if part.paired:
        # A pair is two texts.
        pairs = beside.pairs(max(1, recipe.data.batch_size // 2), None, box, known is None)
    return StudentTask(beside, student, pairs, surrogate, begun)


def _first(path: str | Path) -> tuple[StudentFile, dict[str, Any]]:
    """A student, whatever checkpoint it belongs to, and what is kept of its history."""
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    told = folder / "student.json"
    digest = str(read_json(told).get("checkpoint", "")) if told.is_file() else ""
    found = read_student(folder, digest)
    if found is None:
        raise CheckpointError(f"{path} holds no student.", f"Name a {STUDENT_FILE}, or its folder.")
    notes = found.notes
    kept: dict[str, Any] = {key: notes[key] for key in ("base", "steps", "texts_seen", "seconds") if key in notes}
    return found, {"checkpoint": digest, **kept}
