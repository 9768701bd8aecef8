"""Tables and figures of what is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogFormatter

from codesign.runs import read_json
from dress_study.methods import SPARSITIES


def result_file(out: Path, name: str, seed: int, method: str) -> Path:
    """Where the result of a method, of one network and seed, is kept."""
    return out / f"{name.replace(' ', '_')}-{seed}" / f"{method.replace('/', '_')}.json"


def gathered(
    out: Path, name: str, methods: Sequence[str], seeds: range
) -> dict[str, dict[str, np.ndarray]]:
    """Of every finished method, arrays [seeds, K] of its results."""
    found = {}
    for method in methods:
        files = [result_file(out, name, seed, method) for seed in seeds]
        rows = [read_json(file) for file in files if file.is_file()]
        if rows:
            found[method] = {
                key: np.array([row[key] for row in rows])
                for key in ("accuracy", "macs", "bytes", "family_bytes", "dense")
            }
    return found


def table(name: str, found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Markdown: accuracy at every sparsity, products and bytes."""
    dense = next(iter(found.values()))["dense"]
    seeds = max(len(row["dense"]) for row in found.values())
    print(f"\n{name}, dense {100 * dense.mean():.1f} %; {seeds} seeds, mean and deviation\n")
    heads = [f"{100 * s:.0f} %" for s in SPARSITIES]
    print(f"| method | {' | '.join(heads)} | MMACs | kB of the family |")
    print(f"|---|{'---:|' * (len(heads) + 2)}")
    for method, row in found.items():
        mean = 100 * row["accuracy"].mean(0)
        spread = 100 * row["accuracy"].std(0, ddof=1) if len(row["accuracy"]) > 1 else 0 * mean
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)]
        macs = " / ".join(f"{x / 1e6:.2f}" for x in row["macs"].mean(0))
        print(
            f"| {method} | {' | '.join(cells)} | {macs} | {row['family_bytes'].mean() / 1e3:.0f} |"
        )


def figures(every: Mapping[str, Any], out: Path) -> None:
    """Accuracy against products, and against stored bytes."""
    labels = ("macs", "products of an image, thousands", 1e3), ("bytes", "one subnet, kB", 1e3)
    for quantity, label, unit in labels:
        figure, axes = plt.subplots(1, len(every), figsize=(5.2 * len(every), 4.4), squeeze=False)
        for axis, (name, found) in zip(axes[0], every.items(), strict=True):
            for method, row in found.items():
                if method.startswith("gamma"):
                    continue
                accuracy = 100 * row["accuracy"]
                spread = accuracy.std(0, ddof=1) if len(accuracy) > 1 else None
                axis.errorbar(
                    row[quantity].mean(0) / unit,
                    accuracy.mean(0),
                    spread,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label=method,
                )
            axis.axhline(
                100 * next(iter(found.values()))["dense"].mean(),
                color="0.5",
                linestyle=":",
                label="dense",
            )
            axis.set_xscale("log")
            for level in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
                level(LogFormatter(minor_thresholds=(10, 0.5)))
            axis.set_title(name)
            axis.set_xlabel(label)
            axis.set_ylabel("test accuracy, %")
            axis.grid(alpha=0.3)
        named = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
        figure.legend(named.values(), named, loc="lower center", ncols=len(named), fontsize=8)
        figure.tight_layout(rect=(0, 0.06, 1, 1))
        path = out / f"dress_{quantity}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        print(f"wrote {path}")
