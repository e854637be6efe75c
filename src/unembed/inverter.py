"""The facade: vectors in, texts with their confidence out.

    inverter = Inverter.from_pretrained("default")
    for recovery in inverter.invert(vectors):
        print(recovery.confidence, recovery.text)

Contents: `Inverter`; how it decodes is in `decoding/decoder.py`, what it returns in `decoding/recovery.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unembed.data.tokenization import cut_texts
from unembed.decoding.decoder import Decoder
from unembed.decoding.recovery import Recovery, asked, recoveries
from unembed.network.corrector import Corrector
from unembed.priors.fit_score import Judged
from unembed.refinement.aids import Aids
from unembed.refinement.batches import refine_batches, resolve_budget
from unembed.refinement.budget import Budget
from unembed.refinement.methods import DEFAULT, check_method
from unembed.refinement.refiner import Refinement, Refiner
from unembed.refinement.vector_precision import Rounding, rounding_of

__all__ = ["Inverter", "Recovery"]

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder


class Inverter(Decoder):
    """Recovers texts from vectors with one checkpoint and, where queries are allowed, its encoder.

    Args:
        checkpoint: as `load_checkpoint` returns it.
        name: what it was called; shown in results.
        precision: "fp32", "bf16", or "auto" (bf16 where it is fast); of the products of the network.

    Attributes:
        denoiser: the network.
        tokenizer: between ids and texts.
        identity: the encoder that the checkpoint belongs to.
        name, sha256: of the checkpoint.
        calibrations: confidence calibrations as stored in the checkpoint, or None.
        precision: "fp32" or "bf16".
    """

    def __repr__(self) -> str:
        """Name, encoder, longest text, and where and how it computes."""
        return (
            f"<Inverter {self.name!r}: vectors of {self.identity.name} ({self.dimension} dimensions) to texts of up to "
            f"{self.max_length} tokens; {self.device}, {self.precision}>"
        )

    @property
    def corrector(self) -> Corrector | None:
        """The corrector that is next to the checkpoint's weights, read at first use; None where there is none."""
        return self._checkpoint.corrector

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the checkpoint, loaded at first use and checked with its probe vectors.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it does not make the vectors that the checkpoint was trained on.
        """
        from unembed.encoders.registry import load_matching

        return load_matching(self.identity)

    def use_encoder(self, encoder: str | Encoder) -> None:
        """Send queries to another address of the checkpoint's encoder, such as an endpoint that serves it.

        Args:
            encoder: a name as for `load_encoder`, or an encoder.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it does not make the vectors that the checkpoint was trained on.
        """
        from unembed.encoders.registry import load_matching

        self.__dict__["encoder"] = load_matching(self.identity, encoder)

    @cached_property
    def aids(self) -> Aids:
        """Student and corrector, as far as there are any."""
        return Aids(self.student, self.corrector)

    def load_all(self) -> None:
        """Load what is otherwise read at first use: student and corrector.

        Raises:
            CheckpointError: one of them is damaged, or belongs to another checkpoint.
        """
        _ = self.aids

    def invert(
        self,
        vectors: Any,
        *,
        batch_size: int | None = None,
        trace: bool = False,
        progress: bool = False,
        queries: int = 0,
        refinement: str = DEFAULT,
        budget: Budget | None = None,
        tolerance: float | None = None,
        rounding: Rounding | None = None,
        report: Callable[[int, float, float], None] | None = None,
        salvage: Callable[[list[Recovery]], None] | None = None,
        **options: Any,
    ) -> list[Recovery]:
        """Recover the texts behind vectors; without queries the encoder is not asked.

        Args:
            vectors: array, tensor, nested list or column of arrays (such as a pandas Series), (n, d) or (d,).
            batch_size: vectors decoded together, 64 where None (prior: 4096); memory does not grow with n beyond the
                results.
            trace: keep the steps in each `Recovery.trace`.
            progress: show a bar on stderr.
            queries: texts that may be sent to the encoder for each vector; drafts are then refined.
            refinement: how, a key of `refinement.methods.REFINEMENTS`.
            budget: limits of queries, passes and seconds, instead of `queries`.
            tolerance: 1 - cosine within which a vector counts as met; the vectors' own precision where None.
            rounding: precision of the vectors (`refinement.vector_precision`); found in their numbers where None.
            report: called after each round of queries: the most queries of a text, the mean cosine, vectors met.
            salvage: called with the best drafts so far where an exception ends a refinement.
            options: any field of `DecodeConfig` (strategy, passes, lengths, samples, temperature, beam, seed, ...) and
                any field of `decoding.constraints.known.Constraints`, for all rows or a list, one entry each: prefix,
                known, required, banned, length, and given, (n, up to max_length) token ids, -1 where unknown.

        Returns:
            One recovery for each row, in order.

        Raises:
            InputError: vectors, options or constraints that cannot be used, with the row and what is expected.
            EncoderError: the encoder cannot be loaded, or fails at a query.
        """
        spend = resolve_budget(queries, budget, trace)
        if spend is not None and self.denoiser.config.causal and not {"strategy", "temperature"} & set(options):
            options = {"strategy": "left-to-right", "beam": 8, **options}  # many drafts for few passes
        constraints, config = self._split(options)
        check_method(refinement)
        if spend is None:
            rows = self._rows(vectors)
            found = self._drafts(rows, config, constraints, batch_size, trace, progress)
            return self._recoveries([draft for batch in found for draft in batch], config, rows)
        if config.choose == "student":  # the encoder itself is asked
            config = dataclasses.replace(config, choose="likelihood")
        rows = self._rows(vectors)
        judged = self._judged(rows)
        rounding = rounding or rounding_of(vectors)
        if tolerance is not None:
            rounding = dataclasses.replace(rounding, tolerance=tolerance)
        refiner = Refiner(self.denoiser, self.tokenizer, self.encoder, refinement, None, rounding, self.aids)
        refined = refine_batches(
            refiner,
            rows,
            spend,
            config,
            batch_size,
            rules=self._rules(constraints, len(rows)),
            priors=self._priors(config),
            progress=progress,
            report=report,
            salvage=None if salvage is None else lambda part: salvage(self._refined(part, judged)),
        )
        return self._refined(list(refined), judged)

    def invert_strings(self, texts: Sequence[str], **options: Any) -> list[Recovery]:
        """Embed texts with the checkpoint's own encoder and invert the vectors.

        Args:
            texts: strings; each is cut to the limit in tokens first, and `Recovery.original` is what was embedded.
            options: of `invert`.

        Returns:
            One recovery for each text, in order.

        Raises:
            InputError: a text that is empty or holds characters that the tokenizer does not know.
            EncoderMismatchError: see `encoder`.
        """
        if isinstance(texts, str):
            texts = [texts]
        originals = cut_texts(self.tokenizer, texts, self.max_length, self.identity.name)
        if not originals:
            return []
        found = self.invert(self.encoder.encode(originals), **options)
        return [dataclasses.replace(r, original=text) for r, text in zip(found, originals, strict=True)]

    def _refined(self, found: Sequence[Refinement], judged: Judged | None) -> list[Recovery]:
        drafts = [dataclasses.replace(r.drafts[0], spent=r.passes, alternatives=r.drafts[1:]) for r in found]
        plain = recoveries(drafts, self.tokenizer, None, None if judged is None else judged.head(len(drafts)))
        return [asked(one, r.cosine, r.queries, r.met) for one, r in zip(plain, found, strict=True)]
