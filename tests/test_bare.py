"""What a borrowed accelerator needs runs with JAX and Flax alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What setup.cfg asks for and JAX, Flax, Optax, Chex and Orbax do not bring.
ABSENT = [
    "PIL",
    "annotated_types",
    "codecarbon",
    "datasets",
    "filelock",
    "flatbuffers",
    "ftfy",
    "grain",
    "huggingface_hub",
    "jinja2",
    "jsonargparse",
    "matplotlib",
    "moocore",
    "pydantic",
    "pydantic_core",
    "safetensors",
    "sklearn",
    "tensorboardX",
    "tokenizers",
    "torch",
    "transformers",
]
NEEDED = (
    "codesign.models",
    "codesign.models.formats",
    "codesign.models.subnets",
    "codesign.train.step",
    "codesign.train.subnets",
    "codesign.train.dress.classifier_step",
    "codesign.train.search.population",
    "codesign.cost",
    "codesign.cost.table",
    "codesign.dress",
    "codesign.dress.linear",
)
BARE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "benchmarks")!r}]
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", BARE + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_models_steps_dress_and_costs_import_without_our_other_libraries():
    run("import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in NEEDED))


@pytest.mark.slow
def test_every_task_of_the_accelerator_benchmark_runs_so(tmp_path):
    import json

    file = tmp_path / "results.json"
    run(
        "import accelerator\n"
        f"sys.argv = ['accelerator', '--tiny', '--budget-s', '3000', '--out', {str(file)!r}]\n"
        "accelerator.main()"
    )
    results = json.loads(file.read_text())["results"]
    assert not [r for r in results if "failed" in r or r.get("passed") is False]
    assert {r["task"].split()[0] for r in results} == {
        "correctness",
        "step",
        "torch",
        "cost",
        "elastic",
        "dress",
        "sparse",
    }
    assert all("skipped" in r for r in results if r["task"].startswith("torch"))
