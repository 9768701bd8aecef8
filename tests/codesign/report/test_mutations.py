"""Reports of run folders in whose JSON one value is not what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.cli import main
from codesign.runs import RunFolder
from simulators.limits import bounded
from simulators.mutations import damaged, mutations

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

RECALL = {"recall_at_1": 0.1, "recall_at_5": 0.2, "recall_at_10": 0.3}
RESULT = {
    "images": 60,
    "zero_shot": {"top_1": 0.5, "top_5": 0.9, "classes": 10, "templates": 6},
    "classification": {"top_1": 0.5},
    "retrieval": {"captions": 60, "image_to_text": RECALL, "text_to_image": RECALL},
    "skipped": {"count": 1, "examples": ["a: no picture"], "read": 61},
}
OF_THE_RUN = {"wall_time_s": 3.0, "run_carbon_kgco2e": 1e-5, "run_energy_kwh": 1e-5}
TRAINED = {"seed": 1, "train": {"path": "digits"}, "optim": {"lr": 0.1}, "loss": {"teacher": None}}
DESIGN = {
    "name": "a",
    "role": "found",
    "feasible": True,
    "pareto": True,
    "accuracy": 0.5,
    "recall_at_1": 0.4,
    "scenario": {},
    "target_carbon_kgco2e": 0.3,
    "architecture": {
        "vision": {"layers": 2, "width": 16, "heads": 2, "ffn": 32},
        "text": {"layers": 1, "width": 16, "heads": 2, "ffn": 32},
    },
    "accelerator": {"cores": 1, "pe_x": 8, "pe_y": 8, "l2_kib": 4, "glb_mib": 0.0625},
    "costs": {
        "latency_s": 1e-3,
        "energy_j": 1e-5,
        "area_mm2": 1.0,
        "tops": 0.1,
        "operational_kgco2e": 0.1,
        "embodied_kgco2e": 0.2,
        "carbon_kgco2e": 0.3,
        "breakdown": {"embodied_kgco2e": {"chip": 0.15, "dram": 0.05}},
    },
}


def finetuning(path: Path) -> RunFolder:
    run = RunFolder.create(path, TRAINED)
    run.append_metrics({"step": i, "phase": "finetune", "loss": 2.0 - i} for i in range(3))
    run.append_metrics([{"step": 2, "phase": "validation", "validation": RESULT}])
    run.write_json("summary.json", {"steps": 3, "clip": "clip", "validation": RESULT} | OF_THE_RUN)
    return run


def dressing(path: Path) -> RunFolder:
    run = RunFolder.create(path, TRAINED)
    run.append_metrics({"step": i, "phase": "subnets", "loss": 2.0 - i} for i in range(3))
    both = {"subnets": [RESULT, RESULT]}
    run.append_metrics([{"step": 2, "phase": "validation", "validation": both}])
    subnets = [{"sparsity": s, "density": 1 - s, "validation": RESULT} for s in (0.5, 0.8)]
    run.write_json("summary.json", {"steps": 3, "family": "x", "subnets": subnets} | OF_THE_RUN)
    return run


def search(path: Path) -> RunFolder:
    run = RunFolder.create(path, {"seed": 0, "space": {"vision": {"layers": [1, 2, 3]}}})
    run.append_metrics(
        [
            {"step": 0, "phase": "warmup", "loss": 2.0},
            {
                "step": 1,
                "phase": "joint",
                "loss": [1.0, 1.1],
                "relaxed": {"vision.layers": [1.5, 2.5]},
                "carbon_kgco2e": [0.3, 0.4],
            },
            {"step": 2, "phase": "tune", "loss": [0.9, 1.0]},
        ]
    )
    largest = {"name": "largest", "role": "reference", "accuracy": 0.6}
    run.write_json("designs.json", [DESIGN, DESIGN | {"name": "b"}, DESIGN | largest])
    points: dict[str, Any] = {"hypervolume": 0.5, "reference_point": {"carbon_kgco2e": 1.0}}
    run.write_json("summary.json", points | OF_THE_RUN)
    return run


def ablation(path: Path) -> RunFolder:
    run = RunFolder.create(path, {"seed": 0})
    trials = [
        {"oracle": "mine", "surrogate": surrogate, "buying": buying, "budget": budget, "seed": 0}
        for surrogate, buying, budget in (("analytic", "none", 0), ("learned", "random", 12))
    ]
    error = {
        "mape": 0.2,
        "max_error": 0.9,
        "kendall": 0.6,
        "spearman": None,
        "top_k_recall": 0.1,
    }
    gemms = {"level": "gemm", "subset": "all", "metric": "cycles", "count": 9}
    slopes = {
        "pairs": 4,
        "directed": 4,
        "sign_agreement": 1.0,
        "cosine": 0.9,
        "relative_error": 0.1,
    }
    run.write_json(
        "ablation.json",
        {
            "oracles": [
                {
                    "name": "mine",
                    "fingerprint": "mine-1",
                    "failures": ["no mapping"],
                    "shipped": 0,
                    "bought": 40,
                    "unanswered": 1,
                    "train": 24,
                    "gemms": 9,
                    "designs": 4,
                    "pool": 4,
                    "neighbours": 0,
                }
            ],
            "errors": [row | gemms | error for row in trials],
            "regrets": [
                row | {"metric": "energy_j", "pool": 4, "chosen": 1, "best": 2, "regret": 0.1}
                for row in trials
            ],
            "gradients": [
                row | {"factor": "all", "metric": "cycles", "estimate": "difference"} | slopes
                for row in trials
            ],
        },
    )
    (run.path / "points.csv").write_text(
        "oracle,surrogate,level,metric,index,truth,predicted\n"
        + "".join(f"mine,learned,gemm,cycles,{i},{100 + i},{101.5 - i}\n" for i in range(4))
    )
    return run


def effects(path: Path) -> RunFolder:
    run = RunFolder.create(path, {"models": ["a"]}, kind="effects")
    chip = {
        "cores": 1,
        "pe_x": 64,
        "pe_y": 16,
        "l2_kib": 64,
        "l2_bytes_per_cycle": 64,
        "glb_mib": 2,
        "channels": 2,
    }
    where = {"model": "a", "latency_s": 0.01}
    priced = {"predicted": 0.9, "actual": 1.0, "regret": 0.1, "misses": {}}
    missed = {"predicted": 0.9, "actual": 1.0, "regret": None, "misses": {"latency_s": 0.3}}
    run.write_json(
        "effects.json",
        {
            "objective": "carbon_kgco2e",
            "accelerators": 9,
            "limits": {"tops": 20.0},
            "effects": [{"name": name, "without": f"no {name}"} for name in ("bus", "wire")],
            "best": [where | {"accelerator": chip, "taken_s": 0.01, "value": 1.0}],
            "choices": [
                where | {"effect": name, "accelerator": chip, "same": False, "fits": True} | costs
                for name, costs in (("bus", priced), ("wire", missed))
            ],
        },
    )
    return run


def hardware(path: Path) -> RunFolder:
    run = RunFolder.create(path, {"model": "x"}, kind="hardware")
    run.write_json("designs.json", [DESIGN | {"name": n} for n in ("front-0", "least-carbon")])
    return run


@pytest.mark.parametrize("make", [finetuning, dressing, search, ablation, effects, hardware])
def test_a_report_or_one_line(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = make(tmp_path / "run")
    assert main(["report", str(run.path)]) == 0
    for file in sorted([*run.path.glob("*.json"), *run.path.glob("*.jsonl")]):
        text, by_line = file.read_text(), file.suffix == ".jsonl"
        whole = [json.loads(line) for line in text.splitlines()] if by_line else json.loads(text)
        for place, value, mutated in mutations(whole, 25):
            rows = mutated if by_line else [mutated]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            capsys.readouterr()
            with bounded(60):
                code = main(["report", str(run.path)])
            told = capsys.readouterr().err
            at = (file.name, place, value)
            assert code == 0 or (code == 2 and len(told.splitlines()) == 1), (at, told)
        file.write_text(text)


def test_a_report_of_a_damaged_table_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = ablation(tmp_path / "run")
    file, rng, codes = run.path / "points.csv", np.random.default_rng(0), list[int]()
    data = file.read_bytes()
    for _ in range(60):
        file.write_bytes(damaged(data, rng))
        capsys.readouterr()
        with bounded(60):
            codes.append(main(["report", str(run.path)]))
        told = capsys.readouterr().err
        assert codes[-1] == 0 or (codes[-1] == 2 and len(told.splitlines()) == 1), told
    assert 10 < codes.count(2) < 50
