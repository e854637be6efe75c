"""What the routes do: texts to vectors, vectors to texts, and the events of a stream.

Contents: `Service`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.decoding.config import STRATEGIES, DecodeConfig, strategy_names
from unembed.decoding.request import vector_rows
from unembed.decoding.wording import UNLIKE, Wording
from unembed.errors import EncoderError, EncoderMismatchError, InputError, UnembedError
from unembed.metrics.cosine import row_cosine
from unembed.refinement.refine import METHODS, Refine
from unembed.refinement.session import available
from unembed.serve import schemas
from unembed.serve.batching import Engine, drafts_of
from unembed.serve.limits import Limits, Places
from unembed.serve.results import aligned, canvas_of, change_vectors, recovered

if TYPE_CHECKING:
    from unembed.decoding.recovery import Recovery
    from unembed.inverter import Inverter

_log = logging.getLogger(__name__)


class Service:
    """What the routes do.

    Args:
        inverter: the model.
        engine: computes.
        places: of requests.
        limits: of requests.
        version: of the program.
    """

    def __init__(self, inverter: Inverter, engine: Engine, places: Places, limits: Limits, version: str) -> None:
        self.inverter, self.engine, self.places, self.limits, self.version = inverter, engine, places, limits, version
        _ = inverter.model.checkpoint.fit_score  # read before the first request
        mean = inverter.denoiser.whitening.mean.double()
        self.floor = float(mean @ mean)
        try:
            self.queries = bool(inverter.encoder)
        except UnembedError:
            self.queries = False
        prior = inverter.denoiser.token_prior
        self.wording = Wording(inverter.tokenizer, prior) if prior is not None else None
        only = None if inverter.denoiser.config.fills_masks else "left-to-right"
        self.strategies: list[dict[str, Any]] = []
        for name in strategy_names():
            if only in (None, name):
                try:
                    random = DecodeConfig(strategy=name).random
                except UnembedError as error:  # a package that cannot be used takes nothing else with it
                    _log.warning("%s The server goes without it.", error.what)
                    continue
                about = STRATEGIES.get(name, "of a plug-in")
                self.strategies.append({"name": name, "description": about, "random": random})
        parts = (inverter.denoiser, inverter.corrector)
        self.refinements = [name for name in METHODS if self.queries and available(name, *parts) is None]

    def models(self) -> dict[str, Any]:
        """What the server has."""
        inverter = self.inverter
        identity = inverter.identity.to_dict()
        model = {
            "name": inverter.name,
            "sha256": inverter.sha256,
            "encoder": {k: v for k, v in identity.items() if not k.startswith("probe")},
            "dimension": inverter.dimension,
            "limit": inverter.max_length,
            "strategies": self.strategies,
            "defaults": asdict(inverter.resolve({})),
            "refinements": self.refinements,
            "queries": self.queries,
            "guidance": inverter.denoiser.config.null_vector,
        }
        load = {"taken": self.places.taken, "places": self.places.most}
        return {"models": [model], "limits": asdict(self.limits), "load": load, "version": self.version}

    async def cut(self, texts: Sequence[str]) -> list[Any]:
        """Cut texts to the model's limit."""
        parts = await asyncio.to_thread(self.inverter.tokenizer.truncate, texts, self.inverter.max_length)
        for row, part in enumerate(parts):
            if part is None:
                raise InputError(
                    f"Text {row} is empty or holds characters that {self.inverter.identity.name} does not know.",
                    "Remove or change it. The model that comes with unembed has learnt English.",
                )
        return parts

    def rows(self, vectors: Any) -> np.ndarray:
        """Check vectors."""
        identity = self.inverter.identity
        return vector_rows(vectors, self.inverter.dimension, identity.name, identity.normalised)

    async def embed(self, body: schemas.EmbedRequest) -> dict[str, Any]:
        """Embed texts; the results are an iterator."""
        parts = await self.cut(body.texts)
        vectors = await self.engine.embed([part.text for part in parts])
        tokenizer = self.inverter.tokenizer
        whole = await asyncio.to_thread(tokenizer.encode, body.texts)
        return {
            "model": self.inverter.name,
            "encoder": self.inverter.identity.name,
            "results": (
                {
                    "text": part.text,
                    "tokens": tokenizer.tokens(part.ids),
                    "truncated": len(ids) > len(part.ids),
                    "vector": vector.tolist(),
                }
                for part, ids, vector in zip(parts, whole, vectors, strict=True)
            ),
            "floor": self.floor,
            "floor_source": "squared norm of the mean training vector: the mean cosine of two random texts",
        }

    async def targets(self, body: schemas.InvertRequest) -> tuple[np.ndarray, list[Any] | None, DecodeConfig]:
        """The vectors to invert after the transform, the texts where texts were sent, and the options."""
        if (body.vectors is None) == (body.texts is None):
            raise InputError("A request takes vectors or texts, and not both.", "Send one of them.")
        _ = self._refine(body)
        if body.queries and body.trace:
            raise InputError(
                "A trace shows how a draft is decoded, and refinement starts from finished drafts.",
                "Leave out the trace or the queries.",
            )
        config = self.inverter.resolve(body.options.model_dump(exclude_none=True))
        if drafts_of(config) > self.limits.drafts:
            raise InputError(
                f"{drafts_of(config)} drafts per vector are requested; the server decodes at most "
                f"{self.limits.drafts}.",
                "Lower lengths, samples or beam.",
            )
        if (body.trace or body.tokens) and self._cells(body, config) > self.limits.cells:
            raise InputError(
                f"Up to {self._cells(body, config):,} positions would be traced, the server keeps at most "
                f"{self.limits.cells:,}.",
                "Send fewer vectors, ask for fewer passes or drafts, or leave out trace and tokens.",
            )
        if config.strategy == "prior":
            _ = self.inverter.model.priors
        parts = None if body.texts is None else await self.cut(body.texts)
        if parts is not None:
            vectors = await self.engine.embed([part.text for part in parts])
        else:
            assert body.vectors is not None
            width = self.inverter.dimension
            wrong = next((i for i, vector in enumerate(body.vectors) if len(vector) != width), None)
            if wrong is not None:
                raise InputError(
                    f"Vector {wrong} has dimension {len(body.vectors[wrong])}, the model takes {width}, as "
                    f"{self.inverter.identity.name} makes them.",
                    "Send vectors of that encoder.",
                )
            vectors = self.rows(body.vectors)
        change = body.transform.model_dump()
        return self.rows(change_vectors(vectors, **change)), parts, config

    def _cells(self, body: schemas.InvertRequest, config: DecodeConfig) -> int:
        """Positions in the traces of a request, at most: drafts are traced until one of them is chosen."""
        passes = config.passes + (self.inverter.max_length if config.causal else 0)
        return len(body.vectors or body.texts or ()) * drafts_of(config) * passes * self.inverter.max_length

    def unlike(self, ids: Sequence[int]) -> bool | None:
        """Whether the words are unlike those that the model has learnt; None where that cannot be told."""
        ratio = self.wording.ratio(ids) if self.wording else None
        return None if ratio is None else ratio >= UNLIKE

    async def cosines(self, found: Sequence[Recovery], vectors: np.ndarray) -> list[float | None]:
        """Cosine of each recovered text's own vector to the given one, None without an encoder."""
        texts = [self.inverter.tokenizer.decode(recovery.token_ids) for recovery in found]
        try:
            own = await self.engine.embed(texts)
        except (EncoderError, EncoderMismatchError):
            return [None] * len(found)
        return [float(value) for value in row_cosine(own, vectors)]

    async def invert(self, body: schemas.InvertRequest) -> dict[str, Any]:
        """Recover texts; the results are an iterator."""
        begin = time.perf_counter()
        vectors, _, config = await self.targets(body)
        if body.queries:
            found = await self.engine.refine(vectors, config, self._refine(body))
        else:
            found = await self.engine.invert(vectors, config, body.trace or body.tokens)
        cosines = await self.cosines(found, vectors)
        shown = {"tokens": body.tokens, "alternatives": body.alternatives, "trace": body.trace}
        rows = zip(found, cosines, strict=True)
        results = (recovered(recovery, self.inverter.tokenizer, cosine, **shown) for recovery, cosine in rows)
        return {"results": results, "seconds": time.perf_counter() - begin}

    async def stream(self, body: schemas.InvertRequest) -> AsyncGenerator[tuple[str, Any], None]:
        """Recover one text; yields events."""
        begin = time.perf_counter()
        tokenizer = self.inverter.tokenizer
        vectors, parts, config = await self.targets(body)
        original = parts[0] if parts else None
        whole = (await asyncio.to_thread(tokenizer.encode, body.texts))[0] if body.texts else ()
        yield (
            "start",
            {
                "length_guess": self._length(vectors),
                "vector": vectors[0].tolist(),
                "original": original.text if original else None,
                "tokens": tokenizer.tokens(original.ids) if original else None,
                "truncated": original is not None and len(whole) > len(original.ids),
                "rest": tokenizer.tokens(whole[len(original.ids) :]) if original else [],
                "unlike": self.unlike(original.ids) if original else None,
            },
        )
        found: Any = None
        async for part in self.engine.stream(vectors[0], config):
            if isinstance(part, list):
                for step in part:
                    yield "preview" if step.preview else "step", canvas_of(step, tokenizer)
            else:
                found = part
        if body.queries:
            async for part in self.engine.stream_refinement(vectors[0], config, self._refine(body)):
                if isinstance(part, list):
                    for event in part:
                        tokens = tokenizer.tokens(tokenizer.encode([event["text"]])[0])
                        yield "refine", {**event, "tokens": tokens}
                else:
                    found = part
        cosine = (await self.cosines([found], vectors))[0]
        pairs = aligned(original.ids, found.token_ids) if original else []
        yield (
            "done",
            {
                "result": recovered(found, tokenizer, cosine, tokens=True, alternatives=True),
                "aligned": pairs,
                "seconds": time.perf_counter() - begin,
                "cosine": cosine,
                "floor": self.floor,
            },
        )

    def _refine(self, body: schemas.InvertRequest) -> Refine:
        """What queries a request asks for; they end early enough for its answer to come in time."""
        return Refine(body.queries, body.refinement, seconds=0.75 * self.limits.request_seconds)

    def _length(self, vectors: np.ndarray) -> int | None:
        """The likeliest number of tokens."""
        import torch

        denoiser = self.inverter.denoiser
        if denoiser.config.canvas == "eos":
            return None
        with torch.inference_mode():
            scores = denoiser.length_log_probs(torch.from_numpy(vectors).to(self.inverter.device))
        return int(scores[0].argmax()) + 1
