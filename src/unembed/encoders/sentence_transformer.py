"""Any sentence-transformers model, through that library's own pooling, dense layers, prompt and normalisation.

Contents: `SentenceTransformerEncoder`, `load_sentence_transformer`.

Pooling is never guessed, since a wrong guess makes other vectors without a sign: a folder or hub repository without
`modules.json` is refused, and so is one that brings Python code of its own or weights that are unpickled
(`module_check.py`). Texts are sorted by length in tokens and embedded in batches, so that a batch holds next to no
padding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.encoders.identity import EncoderIdentity, make_identity
from unembed.encoders.module_check import WANTED, check_modules
from unembed.errors import EncoderError, InputError
from unembed.files import sha256_file

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

_PRECISIONS = ("fp32", "bf16")


class SentenceTransformerEncoder:
    """A loaded sentence-transformers model behind the `Encoder` protocol.

    Args:
        model: the loaded model.
        name: the name under which `load_encoder` finds it.
        revision: see `EncoderIdentity`.
        prompt: text put before every input; None: the model's own default prompt; "": none.
        prompt_name: one of the model's prompts by name, instead of `prompt`.
        normalise: scale vectors to length 1 although the model does not; False leaves them as the model makes them.
        precision: "fp32", or "bf16" for autocast (on a CPU with AMX or on a GPU about 3 times as fast; cosine to
            fp32 above 0.9999).
        batch_size: texts a forward pass.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        name: str,
        revision: str = "",
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalise: bool = False,
        precision: str = "fp32",
        batch_size: int = 64,
    ) -> None:
        """Check the options; the model is used as it is."""
        if precision not in _PRECISIONS:
            raise EncoderError(f"There is no precision {precision!r}.", f"Choose one of {', '.join(_PRECISIONS)}.")
        if batch_size < 1:
            raise EncoderError(f"The batch size is {batch_size}.", "Choose at least 1.")
        prompts = model.prompts or {}
        if prompt_name is not None and prompt_name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise EncoderError(f"Encoder {name!r} has no prompt {prompt_name!r}.", f"It knows: {known}.")
        if prompt is None:
            prompt = prompts.get(prompt_name or model.default_prompt_name or "", "")
        self.name = name
        self.prompt: str = prompt or ""
        self.precision = precision
        self.batch_size = batch_size
        self.normalise = normalise
        self._model = model.eval()
        self._revision = revision
        self._known_dimension = model.get_embedding_dimension()

    @cached_property
    def dimension(self) -> int:
        """Length of a vector; measured where the model does not say."""
        return int(self._known_dimension or self.encode(["a"]).shape[1])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.dimension} dimensions>"

    @cached_property
    def identity(self) -> EncoderIdentity:
        """The identity; embeds three probe texts at first use."""
        return make_identity(self, name=self.name, revision=self._revision, prompt=self.prompt)

    def tokenizer_json(self) -> str | None:
        """The model's own tokenizer as JSON, or None where it is no `tokenizers` one."""
        backend = self._backend_tokenizer()
        return None if backend is None else backend.to_str()

    def token_embeddings(self) -> np.ndarray | None:
        """The model's input embeddings, float32 (vocabulary, width), to start a denoiser's from; None without any."""
        import numpy as np

        transformer = getattr(self._model[0], "auto_model", None)
        if transformer is None:
            return None
        weight = transformer.get_input_embeddings().weight
        return np.asarray(weight.detach().float().cpu().numpy())

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (n, dimension), in the order of `texts`.

        Raises:
            InputError: an item is not a string.
        """
        import numpy as np
        import torch

        texts = list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Text {row} is a {type(text).__name__}.", "Pass a list of strings.")
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors: np.ndarray | None = None
        with torch.autocast(self._model.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            for rows in self._batches(np.asarray(self._lengths(texts))):
                part = self._model.encode(
                    [texts[row] for row in rows],
                    prompt=self.prompt or None if self._model.default_prompt_name is None else self.prompt,
                    batch_size=self.batch_size,
                    show_progress_bar=False,
                    convert_to_tensor=True,
                    normalize_embeddings=self.normalise,
                )
                if vectors is None:
                    vectors = np.empty((len(texts), part.shape[1]), dtype=np.float32)
                vectors[rows] = part.float().cpu().numpy()
        assert vectors is not None
        return vectors

    def _batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of each batch, sorted by length.

        Where the tokenizer pads on the left, a batch holds texts of one length only: models with learnt absolute
        positions count the padding there, and a vector would depend on the other texts of its batch.
        """
        import numpy as np

        order = np.argsort(lengths, kind="stable")
        groups = [order]
        if self._pads_left():
            groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
        for group in groups:
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _pads_left(self) -> bool:
        """Whether the model's tokenizer puts padding before the text."""
        with contextlib.suppress(AttributeError, NotImplementedError, KeyError):
            return bool(self._model.tokenizer.padding_side == "left")
        return False

    def _backend_tokenizer(self) -> Any:
        """The `tokenizers` object inside the model, or None."""
        with contextlib.suppress(AttributeError, NotImplementedError, KeyError):
            return getattr(self._model.tokenizer, "backend_tokenizer", None)
        return None

    def _lengths(self, texts: list[str]) -> list[int]:
        """Length of each input in tokens, prompt included; in characters where the tokenizer is not a fast one."""
        if self._counter is None:
            return [len(text) for text in texts]
        if self.prompt:
            texts = [self.prompt + text for text in texts]
        try:
            return [len(e.ids) for e in self._counter.encode_batch_fast(texts, add_special_tokens=False)]
        except UnicodeError as error:
            raise InputError("A text holds characters that are not valid Unicode.", "Remove them.") from error

    @cached_property
    def _counter(self) -> Any:
        """A copy of the tokenizer without padding: the model's own keeps its settings."""
        import tokenizers

        text = self.tokenizer_json()
        if text is None:
            return None
        counter = tokenizers.Tokenizer.from_str(text)
        counter.no_padding()
        return counter


def load_sentence_transformer(
    name: str, path: str | Path | None = None, revision: str | None = None, device: str | None = None, **options: Any
) -> SentenceTransformerEncoder:
    """Load a folder, or a repository of the model hub.

    Args:
        name: a folder saved by sentence-transformers, or a hub name such as "sentence-transformers/all-MiniLM-L6-v2".
        path: the folder to load, where it goes by another name.
        revision: commit or tag on the hub; or the identity's revision of a folder.
        device: "cpu", "cuda", ...; None: what sentence-transformers finds.
        options: those of `SentenceTransformerEncoder`.

    Raises:
        EncoderError: unknown name, unreachable hub, no sentence-transformers model, or see `check_modules`.
    """
    folder = Path(path or name).expanduser()
    commit = ""
    if not folder.is_dir():
        if path or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise EncoderError(f"The encoder folder {folder} does not exist.", "Check the path.")
        folder, commit = _hub_folder(name, revision)
    check_modules(folder, name)
    commit = commit or _weights_hash(folder)
    try:
        with _quiet():
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(
                str(folder),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(
            f"The encoder {name!r} cannot be loaded ({reason}).",
            "Check that its files are complete and that it needs no code of its own.",
        ) from error
    return SentenceTransformerEncoder(model, name=name, revision=commit, **options)


def _hub_folder(name: str, revision: str | None) -> tuple[Path, str]:
    """Folder of a hub repository's files on this machine, fetched where they are absent, and its commit."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(local: bool) -> Path:
        asked: dict[str, Any] = {"revision": revision, "allow_patterns": list(WANTED), "local_files_only": local}
        return Path(snapshot_download(name, **asked))

    try:
        found = fetch(local=True)
        if (found / "modules.json").is_file():
            return found, found.name
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass
    except HFValidationError as error:
        raise _unknown(name) from error
    try:
        HfApi().model_info(name, revision=revision, timeout=10)  # says at once what is wrong
        found = fetch(local=False)
    except GatedRepoError as error:
        raise EncoderError(f"The encoder {name!r} is gated.", "Accept its terms and log in to the hub.") from error
    except RevisionNotFoundError as error:
        raise EncoderError(f"The encoder {name!r} has no revision {revision!r}.", "Check the revision.") from error
    except RepositoryNotFoundError as error:
        raise _unknown(name) from error
    except Exception as error:  # the hub's client changed its network library between versions
        raise _unreachable(name) from error
    return found, found.name


def _unknown(name: str) -> EncoderError:
    """The error for a name that is neither built in, installed, a folder nor on the hub."""
    return EncoderError(
        f"There is no encoder {name!r}.",
        'Use "minilm", "hashing", a sentence-transformers folder, or a name on the model hub.',
    )


def _unreachable(name: str) -> EncoderError:
    """The error for a hub that does not answer."""
    return EncoderError(
        f"The encoder {name!r} is not on this machine and the model hub cannot be reached.",
        'Check the name and the connection, or use the built-in "minilm" or a local folder.',
    )


def _weights_hash(folder: Path) -> str:
    """ "sha256:..." over the weights of a folder, in the order of their names."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin") and p.is_file())
    if len(files) == 1:
        return "sha256:" + sha256_file(files[0])
    import hashlib

    return "sha256:" + hashlib.sha256("".join(sha256_file(p) for p in files).encode()).hexdigest() if files else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's progress bars off the terminal."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
