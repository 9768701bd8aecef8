"""What one accelerator does: correctness first, then speed, in a few minutes and one file.

    PYTHONPATH=. python benchmarks/accelerator.py --out benchmarks/results/h100.json
    PYTHONPATH=. python benchmarks/accelerator.py --tiny         # everything, on a CPU, in a minute
    PYTHONPATH=. python benchmarks/accelerator.py --only step    # tasks whose names begin so
    PYTHONPATH=. python benchmarks/accelerator.py --write-reference

It runs from a bare checkout where there is nothing but JAX, Flax, Optax, Chex and Orbax, and no
network; PyTorch and transformers take part where they are. Every result is printed and written to
the file at once, so that a cut-off loses little. Each task has a process of its own, so that its
peak of memory is its own and a crash ends that task alone. A task that the time left (--budget-s)
is too short for is skipped, and the file says so.

Times are medians over steps of wall-clock time until the result is there, with the quartiles.
Everything is compiled before. Peak memory is the allocator's, of the task's process.

Model-FLOPs utilisation (MFU) is batch x FLOPs of a pair / time / the chip's dense bf16 peak. FLOPs
are counted, not measured: 2 a MAC over all matrix products of both towers, those of attention in
full, causal or not; the backward pass counts twice the forward. Nothing is counted for norms,
softmax, the loss, the optimizer, or for what is computed a second time to save memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerator_tasks.correctness import correctness, write_reference
from accelerator_tasks.costs import cost_direct, cost_table, sparse
from accelerator_tasks.measuring import FULL, TINY, Result, Scale
from accelerator_tasks.steps import dress, elastic, step
from accelerator_tasks.torch_step import torch_step

from machine import bf16_peak_flops, cpu_name

RESULTS = Path(__file__).with_name("results")
MARK = "RESULT "


@dataclasses.dataclass(frozen=True)
class Task:
    """A measurement.

    Attributes:
      run: yields results.
      least_s: it is not begun in less time.
    """

    run: Callable[[Scale], Iterator[Result]]
    least_s: float


def tasks(scale: Scale) -> dict[str, Task]:
    """All measurements, the cheapest and most telling first."""
    small, *larger = scale.batches
    steps = {
        f"step {batch}": Task(functools.partial(step, batch=batch), 60) for batch in scale.batches
    }
    torches = {
        f"torch {batch}": Task(functools.partial(torch_step, batch=batch), 60)
        for batch in scale.batches[:2]
    }
    first = [f"step {batch}" for batch in (small, *larger[:1])]
    return {
        "correctness": Task(correctness, 20),
        **{name: steps[name] for name in first},
        **torches,
        "cost table": Task(cost_table, 30),
        "elastic": Task(elastic, 60),
        "dress": Task(dress, 60),
        "sparse": Task(sparse, 30),
        "cost direct": Task(cost_direct, 45),
        **steps,
    }


def about() -> Result:
    """Device, versions and date."""
    import jax

    device = jax.devices()[0]
    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "platform": device.platform,
        "device": device.device_kind,
        "runtime": device.client.platform_version.split("\n")[0],
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "bf16_peak_tflops": (bf16_peak_flops(device.device_kind) or 0) / 1e12 or None,
        "host": cpu_name(),
        "python": platform.python_version(),
        **versions,
    }


class Record:
    """The file of results, whole after every one of them.

    Args:
      path: of the file.
      options: of the run, to be written with it.
    """

    def __init__(self, path: Path, options: Result) -> None:
        self.path = path
        self.content: Result = {"options": options, "about": {}, "results": []}

    def add(self, task: str, result: Result) -> None:
        """Prints a result and writes the file."""
        if task == "about":
            self.content["about"] = result
        else:
            self.content["results"].append({"task": task, **result})
        print(f"{task}: {json.dumps(result)}", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(self.path.name + ".partial")
        aside.write_text(json.dumps(self.content, indent=1) + "\n")
        aside.replace(self.path)


def run_here(name: str, task: Callable[[], Iterator[Result]], add: Callable[..., None]) -> None:
    """Runs a task in this process; a failure is a result."""
    try:
        for result in task():
            add(name, result)
    except Exception as error:  # whatever it is, the other tasks go on
        first = str(error).strip().splitlines() or [""]
        add(name, {"failed": f"{type(error).__name__}: {first[0][:300]}"})


def run_apart(name: str, limit_s: float, arguments: list[str], add: Callable[..., None]) -> None:
    """Runs a task in a process of its own, which is ended when its time is over."""
    command = [sys.executable, __file__, "--child", name, *arguments]
    began = time.monotonic()
    with subprocess.Popen(
        ["timeout", "-k", "5", f"{limit_s:.0f}", *command], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(MARK):
                add(name, json.loads(line.removeprefix(MARK)))
            else:
                print(line, end="", flush=True)
    if child.returncode in (124, 137):
        add(name, {"failed": f"cut off after {time.monotonic() - began:.0f} s"})
    elif child.returncode:
        add(name, {"failed": f"exit code {child.returncode}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/DEVICE-DATE.json")
    parser.add_argument("--budget-s", type=float, default=470.0, help="for everything")
    parser.add_argument("--tiny", action="store_true", help="small networks, in one process")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="tasks whose names begin so")
    parser.add_argument("--write-reference", action="store_true", help="on the CPU, in float64")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write_reference:
        write_reference()
        return
    scale = TINY if args.tiny else FULL
    known: dict[str, Callable[[], Iterator[Result]]] = {
        "about": lambda: iter([about()]),
        **{name: functools.partial(task.run, scale) for name, task in tasks(scale).items()},
    }
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    if args.child:
        run_here(
            args.child,
            known[args.child],
            lambda _, result: print(MARK + json.dumps(result), flush=True),
        )
        return
    began = time.monotonic()
    path = args.out or RESULTS / f"{'tiny-' if args.tiny else ''}{datetime.date.today()}.json"
    record = Record(path, {"tiny": args.tiny, "budget_s": args.budget_s})
    for name, task in known.items():
        if args.only and name != "about" and not any(name.startswith(x) for x in args.only):
            continue
        left_s = args.budget_s - (time.monotonic() - began)
        least_s = 0.0 if args.tiny or name == "about" else tasks(scale)[name].least_s
        if left_s < max(least_s, 1.0):
            record.add(name, {"skipped": f"{left_s:.0f} s left, it needs {least_s:.0f}"})
        elif args.tiny:
            run_here(name, task, record.add)
        else:
            run_apart(name, left_s, [], record.add)
    results = record.content["results"]
    failed = [r for r in results if r.get("passed") is False or (args.tiny and "failed" in r)]
    print(f"{path}: {len(results)} results, {time.monotonic() - began:.0f} s")
    if failed:
        raise SystemExit(f"{len(failed)} results are failures")


if __name__ == "__main__":
    main()
