"""No run compiles a step twice: neither a fresh one nor a resumed one, of any kind."""

import json
import os
import subprocess
import sys

import pytest

from simulators.tiny_runs import RUNS

# Counts programs by name, and stops where the metrics have so many lines.
PROGRAM = """
import collections, json, logging, os, sys
import jax

counts = collections.Counter()

class Counts(logging.Handler):
    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Compiling jit("):
            counts[text.partition("(")[2].partition(")")[0]] += 1

jax.config.update("jax_log_compiles", True)
jax.config.update("jax_disable_most_optimizations", True)
log = logging.getLogger("jax")
log.addHandler(Counts())
log.propagate = False

from codesign.runs import RunFolder
from codesign.cli import main

stop = int(sys.argv[1])
append = RunFolder.append_metrics
written = 0

def cut(folder, rows):
    global written
    rows = list(rows)
    written += len(rows)
    if 0 < stop < written:
        raise KeyboardInterrupt
    append(folder, rows)

RunFolder.append_metrics = cut
code = main(sys.argv[2:])
print("COUNTS", json.dumps([code, counts]))
"""


def compiled(folder, stop, *argv):
    """How often each program was compiled, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(stop), *argv],
        cwd=folder,
        check=True,
        text=True,
        capture_output=True,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("COUNTS "))
    code, counts = json.loads(line.removeprefix("COUNTS "))
    assert code == (130 if stop else 0), done.stderr
    return counts


def of_steps(counts, expected):
    return {name: counts.get(name, 0) for name in expected}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_no_step_is_compiled_twice(kind, tmp_path):
    command, source, expected = RUNS[kind]
    (tmp_path / "tiny.py").write_text(source)
    argv = (command, "./tiny.py", "--out", "run")
    assert of_steps(compiled(tmp_path, 0, *argv), expected) == expected
    argv = (command, "./tiny.py", "--out", "cut")
    compiled(tmp_path, 4, *argv)
    resumed = of_steps(compiled(tmp_path, 0, *argv, "--resume"), expected)
    assert all(resumed[name] <= expected[name] for name in expected), resumed
    assert sum(resumed.values()) > 0
