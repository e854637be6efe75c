"""The tokenizer of the denoiser by name: the encoder's own, a folder, or one of the model hub.

Contents: `load_tokenizer`, `ENCODERS_OWN`.

The paper reads GPT-2's tokens whatever the encoder (2602.11047, section 4). The text that is embedded is then the one
that those tokens decode to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unembed.data.tokenization import Tokenizer
from unembed.errors import DataError

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder

ENCODERS_OWN = "encoder"
_SECONDS = 10.0


def load_tokenizer(name: str, encoder: Encoder) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: "encoder" for the encoder's own; a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt` of
            a byte-level BPE such as GPT-2's; or a name on the model hub whose repository holds `tokenizer.json`.
        encoder: whose own tokenizer "encoder" means.

    Raises:
        DataError: the encoder has none, or there is none of that name, or the hub cannot be reached.
    """
    if name == ENCODERS_OWN:
        text = encoder.tokenizer_json()
        if text is None:
            raise DataError(
                f"The encoder {encoder.name} has no tokenizer of its own.", "Name one, such as openai-community/gpt2."
            )
        return Tokenizer.from_json(text)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Tokenizer.from_json(_from_folder(folder))
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(f"The tokenizer folder {name} does not exist.", "Check the path.")
    return Tokenizer.from_json(_from_hub(name))


def _from_folder(folder: Path) -> str:
    """The JSON of a folder."""
    try:
        if (folder / "tokenizer.json").is_file():
            return (folder / "tokenizer.json").read_text(encoding="utf-8")
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _byte_level(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The tokenizer in {folder} cannot be read ({error}).", "Check its files.") from error
    raise DataError(
        f"The folder {folder} holds no tokenizer.", "It needs tokenizer.json, or vocab.json and merges.txt."
    )


def _byte_level(vocabulary: str, merges: str) -> str:
    """A byte-level BPE as GPT-2's, which has one special token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        backend = Tokenizer(models.BPE.from_file(vocabulary, merges))
    except Exception as error:  # the Rust library raises bare Exception
        raise DataError(f"{vocabulary} and {merges} are not a BPE tokenizer ({error}).", "Check the files.") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id("<|endoftext|>") is not None:
        backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return backend.to_str()


def _from_hub(name: str) -> str:
    """The JSON of a repository: from the local cache, else from the hub."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        path = hf_hub_download(name, "tokenizer.json", local_files_only=True)
    except HFValidationError as error:
        raise _unknown(name) from error
    except Exception:  # not in the cache
        try:
            HfApi().model_info(name, timeout=_SECONDS)  # asked once; a download would be tried for half a minute
        except RepositoryNotFoundError as error:
            raise _unknown(name) from error
        except Exception as error:
            raise _unreachable(name) from error
        try:
            path = hf_hub_download(name, "tokenizer.json")
        except EntryNotFoundError as error:
            raise DataError(f"{name!r} has no tokenizer.json.", "Name a model that has one.") from error
        except Exception as error:
            raise _unreachable(name) from error
    return Path(path).read_text(encoding="utf-8")


def _unknown(name: str) -> DataError:
    return DataError(
        f"There is no tokenizer {name!r}.", 'Use "encoder", a folder with its files, or a name on the model hub.'
    )


def _unreachable(name: str) -> DataError:
    return DataError(
        f"The tokenizer {name!r} is not on this machine and the model hub cannot be reached.",
        'Check the name and the connection, or use "encoder" or a folder with its files.',
    )
