"""Blocks of the documentation that can be run, and what stands in for a reader's own files.

A block is a fenced `sh`, `bash` or `python` block, or an indented line that begins with a program. It is run as it is
printed, unless an HTML comment right above it says otherwise; parts are separated by semicolons:

    <!-- test: skip REASON -->            it is not run, for this reason
    <!-- test: with NAME, NAME -->        stand-ins that are made first (`Standins` has them)
    <!-- test: small -->                  long runs are cut: a training step of a small network, few texts, few rows
    <!-- test: take A for B -->           A is written for B
    <!-- test: recipe PATH -->            a toml block: recipes/default.toml with these keys is written to PATH

`<!-- test page: ... -->` holds for all blocks of the page behind it. All blocks of a page share a folder, which has
examples/ and recipes/, and its python blocks share their names.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNS = ("sh", "bash", "python")
_MARK = re.compile(r"<!-- test( page)?: (.*?) -->")
_INDENTED = re.compile(r" {4}((?:unembed|make|python|pip|mkdocs) .*)")


@dataclass(frozen=True)
class Marks:
    """What a comment says of a block."""

    skip: str = ""
    small: bool = False
    standins: tuple[str, ...] = ()
    takes: tuple[tuple[str, str], ...] = ()
    recipe: str = ""

    @classmethod
    def read(cls, text: str) -> Marks:
        """Parse the part of a comment behind the colon."""
        marks = cls()
        for part in text.split(";"):
            word, _, rest = part.strip().partition(" ")
            if word == "skip":
                assert len(rest.split()) >= 3, f"{part!r} gives no reason"
                marks = replace(marks, skip=rest)
            elif word == "small":
                marks = replace(marks, small=True)
            elif word == "with":
                marks = replace(marks, standins=marks.standins + tuple(name.strip() for name in rest.split(",")))
            elif word == "take":
                new, old = rest.split(" for ")
                marks = replace(marks, takes=(*marks.takes, (old, new)))
            elif word == "recipe":
                marks = replace(marks, recipe=rest)
            else:
                raise AssertionError(f"unknown mark {part!r}")
        return marks

    def beside(self, page: Marks) -> Marks:
        """These marks, and those of the page."""
        return Marks(
            self.skip or page.skip,
            self.small or page.small,
            page.standins + self.standins,
            page.takes + self.takes,
            self.recipe,
        )


@dataclass(frozen=True)
class Block:
    """A part of a page that is run, or a toml block that is written."""

    page: Path
    line: int
    language: str
    body: str
    marks: Marks

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"

    def text(self) -> str:
        """The body with what stands in for something else."""
        body = self.body
        for old, new in self.marks.takes:
            body = re.sub(rf"(?<![\w/.-]){re.escape(old)}(?![\w/-])", new, body)
        return body

    def commands(self) -> list[str]:
        """Lines that a shell would run; continued lines are joined."""
        lines = self.text().replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page that are run or written, in order."""
    return list(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    whole, own, number = Marks(), Marks(), 0
    while number < len(lines):
        line = lines[number]
        if mark := _MARK.fullmatch(line.strip()):
            found = Marks.read(mark[2])
            whole, own = (found.beside(whole), Marks()) if mark[1] else (whole, found)
        elif line.startswith("```"):
            end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            marks = own.beside(whole)
            language = line[3:].strip()
            if language in RUNS or (language == "toml" and own.recipe):
                yield Block(page, number + 1, language, "\n".join(lines[number + 1 : end]) + "\n", marks)
            number, own = end, Marks()
        elif indented := _INDENTED.fullmatch(line):
            start, body = number, [indented[1]]
            while number + 1 < len(lines) and (more := _INDENTED.fullmatch(lines[number + 1])):
                body.append(more[1])
                number += 1
            yield Block(page, start + 1, "sh", "\n".join(body) + "\n", own.beside(whole))
            own = Marks()
        elif line.strip():
            own = Marks()
        number += 1


def write_recipe(path: Path, body: str) -> None:
    """Write recipes/default.toml with the keys of a toml block changed."""
    values: dict[str, Any] = tomllib.loads((ROOT / "recipes" / "default.toml").read_text(encoding="utf-8"))
    for table, keys in tomllib.loads(body).items():
        values[table].update(keys)
    text = f"task = {json.dumps(values.pop('task'))}\n"
    text += "".join(
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for table, keys in values.items()
    )
    path.write_text(text, encoding="utf-8")


@dataclass
class Standins:
    """Small files that stand in for a reader's own, made from examples/vectors.parquet.

    Args:
        folder: where they are put.
        site: a folder on sys.path for packages.
    """

    folder: Path
    site: Path
    made: set[str] = field(default_factory=set)
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def make(self, name: str) -> None:
        """Make one, once.

        `notes.txt`, `texts.txt`, `vectors.npy`, `vectors.parquet`, `export.parquet`, `export.csv`, `corpus`,
        `held-out`,
        any `.../train` or
        `.../validation` (shards), `house` (the plugin of docs/encoders.md), `ngrams` (examples/encoder-plugin), a name
        that ends in `checkpoint` (a copy of the shipped model), `server` (`unembed serve` on port 18437).
        """
        if name in self.made:
            return
        self.made.add(name)
        if name.endswith(("/train", "/validation")):
            self._shards(self.folder / name)
            return
        known: dict[str, Callable[[Path], None]] = {
            "notes.txt": lambda path: self._texts(path, 3),
            "texts.txt": lambda path: self._texts(path, 12),
            "vectors.npy": lambda path: np.save(path, self._vectors(4)),
            "vectors.parquet": lambda path: pq.write_table(self._table().slice(0, 4), path),
            "export.parquet": self._export_parquet,
            "export.csv": self._export_csv,
            "corpus": self._corpus,
            "held-out": self._held_out,
            "house": self._house,
            "ngrams": self._ngrams,
            "server": lambda _: self._server(),
        }
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("checkpoint"):
            import unembed.checkpoint.shipped

            shutil.copytree(unembed.checkpoint.shipped.WEIGHTS / "minilm", path)
        else:
            known[name](path)

    def _table(self) -> Any:
        return pq.read_table(ROOT / "examples" / "vectors.parquet")

    def _vectors(self, count: int) -> np.ndarray:
        return np.array(self._table()["embedding"].to_pylist()[:count], dtype=np.float32)

    def _lines(self, count: int) -> list[str]:
        return [str(text) for text in self._table()["text"].to_pylist()[:count]]

    def _texts(self, path: Path, count: int) -> None:
        path.write_text("\n".join(self._lines(count)) + "\n", encoding="utf-8")

    def _export_parquet(self, path: Path) -> None:
        table = self._table().slice(0, 3)
        names = {"embedding": "title_vector", "text": "body"}
        table = table.rename_columns([names.get(name, name) for name in table.column_names])
        table = table.append_column("body_vector", table["title_vector"])
        pq.write_table(table.append_column("doc", [[f"doc-{i}" for i in range(3)]]), path)

    def _export_csv(self, path: Path) -> None:
        vectors = self._vectors(2)
        rows = [",".join(["source", *(f"e{i}" for i in range(vectors.shape[1]))])]
        rows += [",".join(["somewhere", *(f"{value:.6f}" for value in vector)]) for vector in vectors]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def _corpus(self, path: Path) -> None:
        for name in ("train", "validation", "test"):
            (path / name).mkdir(parents=True)
            self._texts(path / name / "texts.txt", 40)
        for name in ("english-train-000", "english-validation", "english-test"):
            lines = [f"medquad\t{text}\nother\t{text}\n" for text in self._lines(20)]
            import zstandard

            data = zstandard.ZstdCompressor().compress("".join(lines).encode())
            (path / f"{name}.tsv.zst").write_bytes(data)

    def _held_out(self, path: Path) -> None:
        path.mkdir()
        self._texts(path / "texts.txt", 12)

    def _server(self) -> None:
        """`unembed serve` as a process of its own, until the page is done."""
        command = [sys.executable, "-m", "unembed", "serve", "--port", "18437", "--no-open", "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.closing.callback(process.communicate)
        self.closing.callback(process.terminate)
        assert process.stdout is not None and "18437" in process.stdout.readline()

    def _shards(self, path: Path) -> None:
        encoder = load_encoder("minilm")
        tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
        write_shards(path, [(text, "a") for text in self._lines(40)], encoder, tokenizer, max_length=32)

    def _house(self, path: Path) -> None:
        """The package of docs/encoders.md, as printed there, with something for `embed_somehow`."""
        page = ROOT / "docs" / "encoders.md"
        code = next(block.body for block in blocks(page) if "class HouseEncoder" in block.body)
        package = self.site / "my_package"
        package.mkdir(parents=True)
        inside = load_encoder("hashing:256")
        somehow = (
            "from unembed.encoders.registry import load_encoder\n_inside = load_encoder('hashing:256')\n"
            "def embed_somehow(text):\n    return _inside.encode([text])[0]\n"
        )
        (package / "__init__.py").write_text(code + "\n\n" + somehow, encoding="utf-8")
        (package / "tokenizer.json").write_text(inside.tokenizer_json() or "", encoding="utf-8")
        self._installed("my_package", page.read_text(encoding="utf-8"), "house")

    def _ngrams(self, path: Path) -> None:
        example = ROOT / "examples" / "encoder-plugin"
        shutil.copytree(example / "src" / "unembed_ngrams", self.site / "unembed_ngrams")
        self._installed("unembed_ngrams", (example / "pyproject.toml").read_text(encoding="utf-8"), "ngrams")

    def _installed(self, package: str, text: str, name: str) -> None:
        """Write what pip writes of an entry point that `text` (with a toml table) declares."""
        target = re.search(rf'^{name} = "(.*)"$', text, re.MULTILINE)
        assert target is not None
        info = self.site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[unembed.encoders]\n{name} = {target[1]}\n", encoding="utf-8")
