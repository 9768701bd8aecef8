"""Programs kept for the next command: found again, bounded, private, and never in the way."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from codesign import compilation_cache
from codesign.caches import cache_folder
from codesign.cli import main

# One program, from JAX's start on: what it computes, and how often it was found.
PROGRAM = """
import os, sys
from codesign import compilation_cache
{before}
compilation_cache.start()
import jax, jax.numpy as jnp, numpy as np
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
def waves(x):
    for _ in range(4):
        x = jnp.sin(x @ x) + jax.nn.softmax(x)
    return x
y = jax.jit(waves)(np.ones((16, 16), np.float32) / 7)
print(float(np.asarray(y).sum()).hex(), found.count("/jax/compilation_cache/cache_hits"))
"""

# Of processes whose programs need not be quick themselves.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of the test's own, and nothing set in JAX's variables."""
    for name in ("FOLDER", "ENABLED", "MOST_BYTES", "LEAST_COMPILE_S"):
        monkeypatch.delenv(getattr(compilation_cache, name), raising=False)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def started(home, monkeypatch):
    """Starts as a process does that has not imported JAX."""

    def start(**options):
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "jax")
            compilation_cache.start(**options)
        return os.environ.get(compilation_cache.FOLDER)

    # What is set by the function is taken back at the end, as what is set by the test is.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return start


def begin(before="", **environment):
    more = {compilation_cache.LEAST_COMPILE_S: "0"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def computed(process):
    """The value, and whether its program was found; nothing may be said on stderr."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    value, found = out.split()
    return value, found == "1"


def programs(home):
    return sorted(home.glob("programs/*/jit_waves-*-cache"))


def test_a_program_is_kept_for_its_user_alone_and_found_again(home):
    cold, found = computed(begin())
    assert not found
    (program,) = programs(home)
    assert program.parent.stat().st_mode & 0o777 == 0o700
    assert computed(begin()) == (cold, True)


def test_xla_flags_are_part_of_the_key(home):
    computed(begin())
    assert not computed(begin("os.environ['XLA_FLAGS'] = '--xla_cpu_prefer_vector_width=128'"))[1]
    assert len(programs(home)) == 2


def test_two_processes_at_once_share_a_folder(home):
    values = {computed(process)[0] for process in [begin(), begin()]}
    assert len(values) == 1 and len(programs(home)) == 1
    assert computed(begin())[1]


@pytest.mark.parametrize("way", ["no time", "zeros", "cut", "other bytes"])
def test_a_damaged_program_is_compiled_without_a_word(home, way):
    value, _ = computed(begin())
    (program,) = programs(home)
    whole = program.read_bytes()
    half = len(whole) // 2
    if way == "no time":
        program.write_bytes(whole[:half])
        program.with_name(program.name.removesuffix("cache") + "atime").unlink()
    else:
        damaged = {
            "zeros": bytes(len(whole)),
            "cut": whole[:half],
            "other bytes": whole[:half] + bytes(64) + whole[half + 64 :],
        }
        program.write_bytes(damaged[way])
    assert computed(begin()) == (value, False)
    # What a kill or a power cut leaves is mended, so that the next finds it.
    assert computed(begin()) == (value, way in ("no time", "zeros"))


def test_the_folder_stays_within_its_size(home):
    computed(begin())
    (first,) = programs(home)
    room = str(int(1.5 * first.stat().st_size))
    computed(begin("os.environ['XLA_FLAGS'] = ''", **{compilation_cache.MOST_BYTES: room}))
    (second,) = programs(home)
    assert second != first


def test_what_the_user_sets_stays(started, home, monkeypatch):
    monkeypatch.setenv(compilation_cache.ENABLED, "0")
    assert started() is None
    monkeypatch.setenv(compilation_cache.ENABLED, "true")
    monkeypatch.setenv(compilation_cache.FOLDER, "elsewhere")
    assert started() == "elsewhere"
    assert not home.exists()
    monkeypatch.delenv(compilation_cache.FOLDER)
    monkeypatch.setenv(compilation_cache.MOST_BYTES, "1000")
    assert started() == str(next(home.glob("programs/*")))
    assert os.environ[compilation_cache.MOST_BYTES] == "1000"


def test_none_is_kept_where_that_is_asked_for(started, home):
    assert started(wanted=False) is None
    assert os.environ[compilation_cache.ENABLED] == "false" and not home.exists()


@pytest.mark.parametrize("way", ["no folder", "others can write"])
def test_without_a_place_of_its_own_nothing_is_kept_or_said(
    started, home, monkeypatch, way, capsys
):
    if way == "no folder":  # as where the disk is read-only, which stops root too
        home.write_text("")
    else:
        assert started() is not None
        os.environ.pop(compilation_cache.FOLDER)
        next(cache_folder().glob("programs/*")).chmod(0o777)
    assert started() is None
    assert capsys.readouterr() == ("", "")


def test_one_without_a_home_has_a_place_in_the_folder_of_temporary_files(
    started, monkeypatch, tmp_path
):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CODESIGN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Path(started()).is_relative_to(tmp_path / f"codesign-{os.getuid()}")


def test_a_process_that_has_imported_jax_keeps_its_settings(home, capsys):
    assert main(["cost", "nosuch.json"]) == 2
    assert compilation_cache.FOLDER not in os.environ and not home.exists()


def test_a_cost_is_the_same_from_a_kept_program_and_says_nothing_else(home, tmp_path):
    file = tmp_path / "design.json"
    file.write_text(json.dumps({"architecture": {}, "accelerator": {}}))

    def cost(*options):
        return subprocess.run(
            [sys.executable, "-m", "codesign", *options, "cost", str(file), "--json"],
            env=os.environ | QUICK,
            capture_output=True,
            text=True,
            check=True,
        )

    cold, warm = cost(), cost()
    assert list(home.glob("programs/*/jit__map-*"))
    assert cold.stdout == warm.stdout
    assert cold.stderr == warm.stderr == ""


TRAINING = (
    "finetune",
    "digits_clip",
    "--optim.warmup_steps",
    "1",
    "--schedule.steps",
    "4",
    "--schedule.log_steps",
    "1",
    "--schedule.evaluate_steps",
    "2",
    "--no-check",
    "--untrained.vision.layers",
    "1",
    "--untrained.text.layers",
    "1",
)


@pytest.mark.slow
def test_a_training_is_the_same_to_the_bit_from_kept_programs(home, tmp_path):
    rows = []
    for _ in ("cold", "warm"):
        out = tmp_path / str(len(rows))
        subprocess.run(
            [sys.executable, "-m", "codesign", *TRAINING, "--out", str(out)],
            env=os.environ | QUICK,
            check=True,
            capture_output=True,
        )
        rows.append((out / "metrics.jsonl").read_text())
    assert len(list(home.glob("programs/*/*-cache"))) > 1
    cold, warm = (
        [{k: v for k, v in json.loads(line).items() if "per_s" not in k} for line in lines]
        for lines in map(str.splitlines, rows)
    )
    assert cold == warm
