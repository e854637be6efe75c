"""Draw the animated decodes of README and docs from real traces of the shipped model.

    python -m reports.animate                          # docs/decode.svg and docs/decode-adaptive.svg
    python -m reports.animate --row 12 --out row12.svg # another row of examples/vectors.parquet

The rows are public sentences of the test set. `unembed invert FILE --animate FILE.svg` does the same for your vectors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unembed import Inverter, read_vectors
from unembed.evaluation.animation import animate
from unembed.files import atomic_write_bytes

ROOT = Path(__file__).resolve().parent.parent
DRAWN: dict[str, tuple[int, dict[str, Any]]] = {
    "decode.svg": (7, {}),  # the default strategy
    "decode-adaptive.svg": (7, {"strategy": "adaptive"}),
}


def main() -> None:
    """Draw what the docs show, or one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", type=int, help="a row of examples/vectors.parquet")
    parser.add_argument("--strategy", help="default: the model's own")
    parser.add_argument("--out", type=Path, default=Path("decode.svg"))
    options = parser.parse_args()
    batch = next(iter(read_vectors(ROOT / "examples" / "vectors.parquet")))
    inverter = Inverter.from_pretrained("default", device="cpu")
    wanted = {ROOT / "docs" / name: part for name, part in DRAWN.items()}
    if options.row is not None:
        wanted = {options.out: (options.row, {"strategy": options.strategy} if options.strategy else {})}
    for path, (row, decoding) in wanted.items():
        svg, recovery = animate(inverter, batch.vectors[row], batch.metadata["text"][row], **decoding)
        atomic_write_bytes(path, svg.encode())
        print(f"{path}: {len(svg) >> 10} KiB, {recovery.likelihood:.2f} {recovery.text}")


if __name__ == "__main__":
    main()
