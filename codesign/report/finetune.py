"""The report of a fine-tuning run: its curves, and what the network can do at the end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from codesign.constraints import Natural
from codesign.decode import decode
from codesign.kinds import CLASSIFIER_DRESS, DRESS, kind_of_run
from codesign.printable import printable
from codesign.quantities import percents
from codesign.report import explore, explorer, footprint, text
from codesign.report.html import Picture, write_page
from codesign.report.plots import new_figure, png
from codesign.runs import (
    CONFIG,
    METRICS,
    SUMMARY,
    Run,
    read_run,
    rolled_back_steps,
)

_TEMPLATE = "finetune.html"
_MEASURES: dict[tuple[str, ...], str] = {
    ("zero_shot", "top_1"): "zero-shot top-1",
    ("zero_shot", "top_5"): "zero-shot top-5",
    ("classification", "top_1"): "top-1",
    **{
        ("retrieval", way, f"recall_at_{k}"): f"{words} recall@{k}"
        for way, words in (("image_to_text", "image to text"), ("text_to_image", "text to image"))
        for k in (1, 5, 10)
    },
}


@dataclasses.dataclass(frozen=True)
class _Answers:
    """The share of right answers."""

    top_1: float
    top_5: float | None = None


@dataclasses.dataclass(frozen=True)
class _ZeroShot(_Answers):
    """The same, and of how many classes by how many templates."""

    classes: Natural = dataclasses.field(kw_only=True)
    templates: Natural = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class _Recall:
    """Of pictures found by texts, or texts by pictures."""

    recall_at_1: float
    recall_at_5: float | None = None
    recall_at_10: float | None = None


@dataclasses.dataclass(frozen=True)
class _Retrieval:
    """Both ways."""

    captions: Natural
    image_to_text: _Recall
    text_to_image: _Recall


@dataclasses.dataclass(frozen=True)
class _Skipped:
    """Pictures that could not be read."""

    count: Natural = 0


@dataclasses.dataclass(frozen=True)
class _Result:
    """What an evaluation found."""

    images: Natural
    zero_shot: _ZeroShot | None = None
    classification: _Answers | None = None
    retrieval: _Retrieval | None = None
    skipped: _Skipped = _Skipped()


@dataclasses.dataclass(frozen=True)
class _Subnet:
    """One of a family at a run's end."""

    sparsity: float
    density: float
    validation: _Result | None = None
    macs: Natural | None = None


@dataclasses.dataclass(frozen=True)
class _Summary:
    """What of a summary.json is shown."""

    steps: Natural | None = None
    validation: _Result | None = None
    subnets: tuple[_Subnet, ...] = ()
    bytes: dict[str, Natural] | None = None
    macs: Natural | None = None


@dataclasses.dataclass(frozen=True)
class _Subnets:
    """The evaluations of a family's subnets."""

    subnets: tuple[_Result, ...]


@dataclasses.dataclass(frozen=True)
class _Config:
    """What of a config is looked into."""

    train: dict[str, Any]
    optim: dict[str, Any]
    loss: dict[str, Any]


def _read(folder: str | os.PathLike[str]) -> Run:
    """A run whose files hold what is shown of them as it is written.

    Raises:
      UserError: where the folder holds no run, or a damaged one.
    """
    run = read_run(folder)
    decode(_Config, run.record.get("config", {}), str(run.path / CONFIG), at="config")
    decode(_Summary, run.summary, str(run.path / SUMMARY))
    for row in run.metrics:
        if row.get("phase") == "validation":
            result = row.get("validation")
            family = isinstance(result, dict) and "subnets" in result
            kind: Any = _Subnets if family else _Result
            where = f"{run.path / METRICS}: step {row['step']}"
            decode(kind, result, where, at="validation")
    return run


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Writes report.html and its figures into a run folder, from that folder alone.

    Raises:
      UserError: where the folder holds no run, or a damaged one.
      RunError: where the disk refuses.
    """
    run = _read(folder)
    found = measures(run.summary.get("validation") or {})
    return write_page(
        run.path,
        _TEMPLATE,
        run.record,
        _pictures(run),
        kind="DRESS" if _is_family(run) else "fine-tuning",
        lead=_lead(run),
        facts=_facts(run),
        measures=[["measure", "value"], *map(list, found)] if found else [],
        stages=_stages(run),
        subnets=_subnet_rows(run.summary.get("subnets", [])),
        **explorer.context({run.name: designs(run)}, curves(run)),
    )


def _is_family(run: Run) -> bool:
    return bool(run.summary.get("subnets")) or kind_of_run(run.path) in (DRESS, CLASSIFIER_DRESS)


def _lead(run: Run) -> str:
    if not _is_family(run):
        return "Contrastive training of a CLIP"
    of = "a ResNet" if kind_of_run(run.path) is CLASSIFIER_DRESS else "a CLIP"
    return f"Nested sparse subnets of {of} in one packed file (DRESS)"


def _stages(run: Run) -> list[list[str]]:
    """The stages of a family's training: a heading, and name, what it does and steps of each."""
    subnets = run.record.get("config", {}).get("subnets")
    if not isinstance(subnets, Mapping):
        return []
    return [
        ["stage", "steps", "trains"],
        *(
            [name, str(subnets.get(f"{name}_steps", text.MISSING)), trains]
            for name, trains in (
                ("dense", "the dense network"),
                ("joint", "all subnets in each step, their masks nested"),
                ("post", "each subnet's own normalisation"),
            )
        ),
    ]


def designs(run: Run) -> list[dict[str, Any]]:
    """The networks of a family as a report's designs: the subnets, and the dense one."""
    summary = run.summary
    entries = [
        _network(name, "subnet", subnet)
        for name, subnet in zip(subnet_names(summary), summary.get("subnets", []), strict=True)
    ]
    if entries and (dense := dense_validation(run)) is not None:
        step, result = dense
        whole = {"density": 1.0, "macs": summary.get("macs")}
        name = f"dense, after {step} steps"
        entries.append(_network(name, "reference", whole | {"validation": result}))
    return entries


def subnet_names(summary: Mapping[str, Any]) -> list[str]:
    """What the subnets of a summary are called: "50% sparse"."""
    shares = [subnet["sparsity"] for subnet in summary.get("subnets", [])]
    return [f"{share} sparse" for share in percents(shares)]


def dense_validation(run: Run) -> tuple[int, Mapping[str, Any]] | None:
    """Steps and result of the last evaluation of the dense network, before it had subnets."""
    found = [
        (row["step"] + 1, row["validation"])
        for row in run.metrics
        if row.get("phase") == "validation" and "subnets" not in row["validation"]
    ]
    return found[-1] if found else None


def _network(name: str, role: str, known: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "role": role, "density": known["density"]}
    entry["costs"] = {"macs": known.get("macs")}
    result = known.get("validation") or {}
    answers = result.get("zero_shot") or result.get("classification")
    if answers:
        entry["accuracy"] = answers["top_1"]
        entry["accuracy_standard_error"] = text.standard_error(
            answers["top_1"], result.get("images")
        )
    return entry


def curves(run: Run) -> list[dict[str, Any]]:
    """Losses and validation over the steps, for the page's script."""
    points = _validation_lines(run.metrics, run.summary)
    series = [{"name": name, "points": list(map(list, line))} for name, line in points.items()]
    validation = {"label": "validation", "unit": "%", "series": series, "phases": []}
    subnets = [entry["name"] for entry in designs(run) if entry["role"] == "subnet"]
    return explore.curves(run.metrics, subnets) + ([validation] if series else [])


def measures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an evaluation found, as (measure, per cent), with the sizes it is of."""
    found = []
    for path, words in _MEASURES.items():
        value: Any = result
        for key in path:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        if isinstance(value, (int, float)):
            found.append((words, text.share_of(float(value), _trials(result, path))))
    if found:
        found.append(("images", f"{result['images']:,}"))
    if zero_shot := result.get("zero_shot"):
        found.append(("classes", str(zero_shot["classes"])))
        found.append(("caption templates", str(zero_shot["templates"])))
    if result.get("retrieval"):
        found.append(("captions", f"{result['retrieval']['captions']:,}"))
    skipped = result.get("skipped", {}).get("count", 0)
    if skipped:
        found.append(("unreadable images, skipped", str(skipped)))
    return found


def _trials(result: Mapping[str, Any], path: Sequence[str]) -> Any:
    """How many pictures, or captions, a measure is a mean over."""
    of_captions = path[:2] == ("retrieval", "text_to_image")
    return result["retrieval"].get("captions") if of_captions else result.get("images")


def headline(result: Mapping[str, Any]) -> str:
    """The same in a few words."""
    words = []
    for kind, name in (("zero_shot", "zero-shot"), ("classification", "top-1")):
        if kind in result:
            top_1 = text.share_of(result[kind]["top_1"], result.get("images"))
            words.append(f"{name} {top_1}")
    if "retrieval" in result:
        ways = ("image_to_text", "text_to_image")
        both = (
            text.share_of(
                result["retrieval"][way]["recall_at_1"], _trials(result, ("retrieval", way))
            )
            for way in ways
        )
        words.append("recall@1 " + " / ".join(both))
    return ", ".join(words)


def measures_table(result: Mapping[str, Any]) -> Table:
    """The same for a terminal."""
    return _columns({"value": measures(result)})


def comparison_table(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Finished runs side by side, by name."""
    return _columns(
        {
            name: [
                ("steps", str(summary.get("steps", text.MISSING))),
                *measures(summary.get("validation") or {}),
                ("wall time", text.duration(summary.get("wall_time_s"))),
            ]
            for name, summary in summaries.items()
        }
    )


def subnets_table(summary: Mapping[str, Any]) -> Table:
    """The subnets of a family side by side."""
    return _columns(
        {
            name: [
                ("weights kept", text.percent(subnet["density"])),
                *measures(subnet.get("validation") or {}),
            ]
            for name, subnet in zip(subnet_names(summary), summary["subnets"], strict=True)
        }
    )


def _subnet_rows(subnets: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A heading and a line for every subnet: weights kept, and what it makes of the data."""
    found = [dict(measures(subnet.get("validation") or {})) for subnet in subnets]
    names = list(dict.fromkeys(name for own in found for name in own))
    counted = any(subnet.get("macs") is not None for subnet in subnets)
    rows = [
        [
            text.percent(subnet["sparsity"]),
            text.percent(subnet["density"]),
            *([text.si(subnet.get("macs"), "MAC")] if counted else []),
            *(own.get(name, text.MISSING) for name in names),
        ]
        for subnet, own in zip(subnets, found, strict=True)
    ]
    heads = ["sparsity", "weights kept", *(["products"] if counted else []), *names]
    return [heads, *rows] if rows else []


def _columns(found: Mapping[str, list[tuple[str, str]]]) -> Table:
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("measure", no_wrap=True)
    for name in found:
        table.add_column(Text(printable(name)), justify="right")
    columns = [dict(pairs) for pairs in found.values()]
    for measure in dict.fromkeys(name for column in columns for name in column):
        table.add_row(measure, *(column.get(measure, text.MISSING) for column in columns))
    return table


def _facts(run: Run) -> list[tuple[str, str]]:
    config, summary = run.record.get("config", {}), run.summary
    known = [
        ("started from", str(config.get("checkpoint") or "an untrained network")),
        ("teacher", str(config.get("loss", {}).get("teacher") or text.MISSING)),
        ("trained on", str(config.get("train", {}).get("path", text.MISSING))),
        ("steps", str(summary.get("steps", text.MISSING))),
        ("steps rolled back", str(rolled_back_steps(run.metrics) or text.MISSING)),
        *_sizes(summary),
        ("batch", str(config.get("optim", {}).get("batch_size", text.MISSING))),
        *footprint.facts(summary),
    ]
    return [(name, value) for name, value in known if value != text.MISSING]


def _sizes(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Bytes and products of a family, beside the dense network's."""
    sizes, macs = summary.get("bytes") or {}, summary.get("macs")
    return [
        ("packed family", text.si(sizes.get("packed"), "B")),
        ("one dense model", text.si(sizes.get("dense"), "B")),
        ("as separate sparse models", text.si(sizes.get("csr"), "B")),
        ("products of the dense network", text.si(macs, "MAC")),
    ]


def _pictures(run: Run) -> list[Picture]:
    drawn = [_losses(run.metrics), _validation(run.metrics, run.summary)]
    return [picture for picture in drawn if picture is not None]


def _losses(metrics: Sequence[Mapping[str, Any]]) -> Picture | None:
    rows = [row for row in metrics if isinstance(row.get("loss"), float)]
    if not rows:
        return None
    figure, axes = new_figure(8.0, 3.6)
    steps = np.asarray([row["step"] for row in rows])
    window = max(1, len(rows) // 100)
    # A total of one part is that part.
    parts = [k for k in rows[0] if k.endswith("_loss")]
    for name in ["loss", *parts] if len(parts) > 1 else ["loss"]:
        values = np.asarray([row.get(name) for row in rows], float)
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axes.plot(steps[window - 1 :], smooth, label=name.replace("_", " "), linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.margins(x=0.01)
    if len(parts) > 1:
        axes.legend(frameon=False, fontsize=8)
    averaged = f"Averaged over {window} steps." if window > 1 else ""
    return Picture(
        "loss.png", "Training", "Line chart of the loss over the steps.", averaged, png(figure)
    )


def _validation_lines(
    metrics: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, list[tuple[int, float]]]:
    """(steps, per cent) of every measure, or every subnet; none of a single evaluation."""
    results = [
        (row["step"] + 1, row["validation"]) for row in metrics if row.get("phase") == "validation"
    ]
    if summary.get("validation"):
        results.append((summary.get("steps") or 0, summary["validation"]))
    names = subnet_names(summary)
    lines: dict[str, list[tuple[int, float]]] = {}
    for step, result in results:
        for name, value in _lines(result, names):
            lines.setdefault(name, []).append((step, 100 * value))
    return lines if len(results) > 1 else {}


def _validation(metrics: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Picture | None:
    lines = _validation_lines(metrics, summary)
    if not lines:
        return None
    figure, axes = new_figure(8.0, 3.6)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("per cent")
    axes.legend(frameon=False, fontsize=8)
    return Picture(
        "validation.png",
        "Validation",
        "Line chart of accuracy on validation data.",
        "Of the weights that are saved, the moving average where there is one.",
        png(figure),
    )


def _lines(result: Mapping[str, Any], subnets: Sequence[str]) -> list[tuple[str, float]]:
    """What a result adds to the curves: of one network, or of each subnet."""
    if "subnets" in result:
        of_each = [_lines(own, ()) for own in result["subnets"]]
        names = subnets or [f"subnet {k}" for k in range(len(of_each))]
        return [(name, own[0][1]) for name, own in zip(names, of_each, strict=False) if own]
    kinds = {"zero_shot": "zero-shot top-1", "classification": "top-1"}
    found = [(words, result[kind]["top_1"]) for kind, words in kinds.items() if result.get(kind)]
    for way, measured in (result.get("retrieval") or {}).items():
        if isinstance(measured, Mapping):
            found.append((way.replace("_", " ") + " recall@1", measured["recall_at_1"]))
    return found
