"""The table and the figure of `codesign ablate effects` for the documentation.

    codesign ablate effects --out runs/effects
    python benchmarks/effects.py runs/effects [docs/images/effects.png]

prints the table in Markdown, and writes the figure where a file is named. docs/cost-model.md
quotes the output.
"""

from __future__ import annotations

import sys
from pathlib import Path

from codesign.report.effects import figure, markdown, notes, read_result
from machine import here


def main(folder: str, image: str | None = None) -> None:
    result = read_result(Path(folder))
    print(here())
    print("\n".join(["", *notes(result), "", *markdown(result)]))
    if image is not None:
        Path(image).write_bytes(figure(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
