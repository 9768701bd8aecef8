"""Searches and trainings of subnets by two processes are those of one."""

import json

import pytest

from codesign.runs import read_metrics
from simulators.processes import finished, started, two
from simulators.tiny_runs import RUNS

pytestmark = pytest.mark.slow


def both(*args):
    return two(started, *args)


@pytest.mark.parametrize("kind", ["search", "dress", "resnet"])
def test_two_processes_find_what_one_does(kind, tmp_path):
    command, config, _ = RUNS[kind]
    (tmp_path / "tiny.py").write_text(config)
    rows, designs = [], []
    for name, begun in (("one", lambda *args: [started(*args)]), ("two", both)):
        out = tmp_path / name
        for process in begun(command, tmp_path / "tiny.py", out, "--no-check"):
            finished(process)
        rows.append(read_metrics(out / "metrics.jsonl"))
        if (out / "designs.json").exists():
            designs.append(json.loads((out / "designs.json").read_text()))
    assert [(r["step"], r["phase"]) for r in rows[0]] == [(r["step"], r["phase"]) for r in rows[1]]
    for one, other in zip(*rows, strict=True):
        assert other.get("loss") == pytest.approx(one.get("loss"), rel=1e-5)
    assert len(designs) == (2 if kind == "search" else 0)
    for one, other in zip(*designs or ((), ()), strict=True):
        assert [one["architecture"], one["accelerator"]] == [
            other["architecture"],
            other["accelerator"],
        ]
        assert other["accuracy"] == pytest.approx(one["accuracy"], abs=0.01)
