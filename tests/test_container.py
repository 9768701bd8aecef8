"""The Containerfile's steps, as far as they go without a container."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = [
    line.split(maxsplit=1)
    for line in (ROOT / "Containerfile").read_text().splitlines()
    if line and not line.startswith("#")
]


def of(instruction):
    return [rest for name, rest in STEPS if name == instruction]


def test_it_installs_what_there_is():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (install,) = (run for run in of("RUN") if "pip install" in run)
    extras = re.search(r"'\.\[([\w,]+)\]'", install)[1].split(",")
    assert set(extras) <= set(setup["options.extras_require"])
    assert of("ENTRYPOINT") == ['["codesign"]']
    assert "codesign =" in setup["options.entry_points"]["console_scripts"]
    (image,) = of("FROM")
    version = tuple(map(int, re.search(r"python:(\d+)\.(\d+)", image).groups()))
    least = tuple(map(int, re.findall(r"\d+", setup["options"]["python_requires"])))
    assert version >= least


@pytest.mark.slow  # builds a wheel
def test_what_it_copies_is_a_whole_program(tmp_path):
    """Installed from those files alone, beside the dependencies that are here."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for copied in of("COPY"):
        *names, place = copied.split()
        for name in names:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, source / place, symlinks=True, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source / place)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("setuptools cannot be had here")
    assert done.returncode == 0, done.stderr
    cost = [sys.executable, "-m", "codesign", "cost", "tinyclip-8m-16", "--json"]
    env = os.environ | {"PYTHONPATH": str(target)}
    found = subprocess.run(cost, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert found.returncode == 0, found.stderr
    where = [sys.executable, "-c", "import codesign.train.search.run as run; print(run.__file__)"]
    file = subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, env=env).stdout
    assert file.startswith(str(target))
