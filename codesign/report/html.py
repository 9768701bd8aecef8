"""report.html: one self-contained page from what a run folder holds."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.kinds import HARDWARE, kind_of_run
from codesign.printable import printable, printable_lines
from codesign.quantities import unit_of, without_unit
from codesign.report import entries, explore, explorer, footprint, plots, tables, text, words
from codesign.report.claims import run_claims
from codesign.runs import REPORT, Run, read_run, rolled_back_steps, write_bytes

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATE = "report.html"


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Attributes:
      file: its name in the run folder.
      title: its heading.
      alt: what it shows, for those who cannot see it.
      caption: how to read it.
      png: its bytes.
    """

    file: str
    title: str
    alt: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Writes report.html and its figures into a run folder, from that folder alone.

    Args:
      folder: holds config.json and what else the run has written so far.

    Returns:
      The path of report.html.

    Raises:
      UserError: where the folder holds no run, or a damaged one.
      RunError: where the disk refuses.
    """
    run = read_run(folder)
    found = run_claims(run)
    fixed, searched = line_names(run.designs)
    explored = explorer.context(
        {run.name: run.designs},
        explore.curves(run.metrics, searched, fixed),
        explorer.splits_of(run.designs, run.record.get("config")),
    )
    return write_page(
        run.path,
        _TEMPLATE,
        run.record,
        pictures(run),
        lead=words.lead(run),
        facts=_facts(run),
        designs=run.designs,
        claims=tables.claim_rows(found),
        said=found.lines(),
        words=words.in_words(run),
        **explored,
    )


def write_page(
    folder: Path, template: str, record: Mapping[str, Any], shown: Iterable[Picture], **own: Any
) -> Path:
    """Writes report.html and its figures; what no file can hold, as escapes.

    Args:
      folder: of the run.
      template: of this package, with run.html in it.
      record: config.json.
      shown: figures.
      own: what the template is given beside these.

    Returns:
      The path of report.html.
    """
    shown = list(shown)
    made, line = words.command(record, folder)
    given = {
        "name": printable(record.get("name") or folder.resolve().name),
        "seed": record.get("seed"),
        "pictures": shown,
        "words": [],
        "command_words": made,
        "command": line,
        "versions": record.get("versions", {}),
        "config": json.dumps(record.get("config", {}), indent=2, ensure_ascii=False),
        "script": explorer.script(),
    }
    page = environment().get_template(template).render(given | own)
    for picture in shown:
        write_bytes(folder / picture.file, picture.png)
    write_bytes(folder / REPORT, page.encode("utf-8", "backslashreplace"))
    return folder / REPORT


def pictures(run: Run) -> list[Picture]:
    """The figures that the run has data for."""
    fixed, searched = line_names(run.designs)
    config = run.record.get("config")
    space = config.get("space") if isinstance(config, Mapping) else None
    if kind_of_run(run.path) is HARDWARE:
        from codesign.report.hardware import front_figure  # not above: it starts JAX

        front = front_figure(run.designs)
        return [] if front is None else [Picture("front.png", *_WORDS["front.png"], front)]
    drawn = {
        "pareto.png": plots.pareto(run.designs),
        "carbon.png": plots.carbon(run.designs),
        "trajectories.png": plots.trajectories(
            run.metrics, space if isinstance(space, Mapping) else {}, searched
        ),
        "training.png": plots.training(run.metrics, searched, fixed),
    }
    return [Picture(file, *_WORDS[file], png) for file, png in drawn.items() if png is not None]


# Title, alternative text and caption of each figure.
_WORDS = {
    "pareto.png": (
        "Accuracy and carbon",
        "Scatter plot of zero-shot accuracy against total carbon of every design.",
        """Each point is a discrete design, measured. Stars are the references. The line is the
        Pareto front: no feasible design, references included, is both more accurate and lower
        in carbon. Bars are one standard error over the test images, where it is known. Colour is
        latency; an orange-red edge marks a broken limit.""",
    ),
    "front.png": (
        "Latency and carbon",
        "Line chart of total carbon against latency: the Pareto front and the best of each cost.",
        "The accelerators that no other beats in both latency and carbon. Stars are the least.",
    ),
    "carbon.png": (
        "Where the carbon comes from",
        "Bar chart of operational and embodied carbon of every design.",
        """Operational carbon is energy over the device's life; embodied carbon is the making of
        chip and DRAM.""",
    ),
    "trajectories.png": (
        "How the designs moved",
        "Line charts of every relaxed dimension over the steps of the joint phase.",
        """One line a design. Grey lines are the choices that a dimension has; at the dashed line
        designs were snapped to them. Dimensions of a single choice are left out.""",
    ),
    "training.png": (
        "Training",
        "Line chart of the loss of every design over the steps.",
        "Loss of each design, phases shaded; in black those that are not searched.",
    ),
}


def line_names(designs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Names of the fixed networks and of the searched ones, in the order they are trained in."""
    names: tuple[list[str], list[str]] = ([], [])
    for design in designs:
        names[entries.was_searched(design)].append(str(design.get("name", "")))
    return names


def environment() -> Environment:
    """Templates of this package; what they lack is an error.

    What they are given is escaped, and what is not printable in it is written as `printable` does.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("codesign.report", "."),
        autoescape=True,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """The run as a whole, what is known of it: (name, value)."""
    summary = run.summary
    known = [
        ("designs found", str(sum(not entries.is_reference(d) for d in run.designs))),
        ("steps", str(run.metrics[-1]["step"] + 1) if run.metrics else text.MISSING),
        ("steps rolled back", str(rolled_back_steps(run.metrics) or text.MISSING)),
        ("reference point", _point(summary.get("reference_point"))),
        *footprint.facts(summary),
    ]
    return [(name, value) for name, value in known if value != text.MISSING]


def _point(point: Any) -> str:
    if isinstance(point, Mapping):
        return ", ".join(_measure(key, value) for key, value in point.items())
    if isinstance(point, list):
        return ", ".join(printable(value) for value in point)
    return text.MISSING


def _measure(name: str, value: Any) -> str:
    """One named number in the unit that its name ends with: "carbon 858 mgCO2e"."""
    if name == "accuracy":
        return f"accuracy {text.percent(value)}"
    if unit_of(name) is None:
        return f"{printable(name)} {printable(value)}"
    return f"{printable(without_unit(name))} {text.amount(name, value)}"
