"""Starting fast: what each command imports, counted, because seconds depend on the machine."""

import json
import subprocess
import sys

import pytest

# Each takes a tenth of a second to seconds to import.
HEAVY = {
    "PIL",
    "codecarbon",
    "datasets",
    "flax",
    "grain",
    "huggingface_hub",
    "jax",
    "matplotlib",
    "moocore",
    "numpy",
    "optax",
    "orbax",
    "pandas",
    "pydantic",
    "scipy",
    "sklearn",
    "tensorboardX",
    "torch",
    "transformers",
}
ARRAYS = {"jax", "moocore", "numpy"}
RUN = """
import contextlib, io, sys
from codesign.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    with contextlib.suppress(SystemExit):
        main(sys.argv[1:])
sys.stderr.write(out.getvalue())
print(*{name.partition(".")[0] for name in sys.modules})
"""


def started(*argv):
    """What the program said, and the heavy packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, argv)], capture_output=True, text=True, check=True
    )
    return done.stderr, HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--help"], "COMMAND"),
        (["cost", "--help"], "--costing"),
        (["search", "--help"], "quickstart"),
        (["finetune", "--help"], "--resume"),
        (["serch"], "did you mean 'search'"),
        (["search", "quikstart"], "did you mean 'quickstart'"),
        (["finetune", "clib"], "did you mean 'clip'"),
        (["ablate", "ablaton"], "did you mean 'ablation'"),
        (["report", "runs/nosuch"], "is not a folder"),
        (["cost", "nosuch.json"], "there is no design file"),
    ],
)
def test_help_and_misspelt_words_import_nothing_heavy(argv, says):
    said, imported = started(*argv)
    assert says in said
    assert imported == set()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["search", "quickstart", "--help"], "--seed"),
        (["search", "hardware", "--scenario.lifetime", "1"], "'--scenario.lifetime_years'"),
        (["finetune", "clip", "--help"], "--optim.lr"),
    ],
)
def test_fields_of_a_config_import_arrays_alone(argv, says):
    said, imported = started(*argv)
    assert says in said
    assert imported <= ARRAYS


def test_a_cost_draws_nothing_and_loads_no_network(tmp_path):
    file = tmp_path / "design.json"
    file.write_text(json.dumps({"architecture": {}, "accelerator": {}}))
    said, imported = started("cost", file)
    assert "carbon" in said
    assert imported <= ARRAYS
