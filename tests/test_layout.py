"""One import system: a checkout, an editable and a plain installation find everything once."""

import ast
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("configs", "models", "train")
# Modules of extras that a module of ours may ask for when it is imported.
OF_EXTRAS = {"mlflow", "optuna", "pymoo", "tensorboardX", "wandb"}
# Imports every module; tells of files that two modules share, of names nobody should find, of
# folders that modules come from.
FOUND = """
import importlib, importlib.util, inspect, json, os, pkgutil, site, sys
for folder in sys.argv[1:]:
    site.addsitedir(folder)
import codesign
modules, absent = {"codesign": codesign}, set()
for info in pkgutil.walk_packages(codesign.__path__, "codesign."):
    if not info.name.endswith(("__main__", "deploy_example")):
        try:
            modules[info.name] = importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            absent.add(error.name)
files, classes = {}, {}
for name, module in modules.items():
    if module.__file__:
        files.setdefault(os.path.realpath(module.__file__), []).append(name)
for module in list(sys.modules.values()):
    for thing in list(vars(module).values()):
        if inspect.isclass(thing) and str(thing.__module__).startswith("codesign"):
            place = f"{thing.__module__}.{thing.__qualname__}"
            classes.setdefault(place, set()).add(id(thing))
def findable(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print(json.dumps({
    "twice": {f: names for f, names in files.items() if len(names) > 1},
    "classes": len(classes),
    "classes twice": [name for name, ids in classes.items() if len(ids) > 1],
    "strays": [n for n in ("codesign.codesign", "models", "train", "configs") if findable(n)],
    "models": modules["codesign.models"].__file__,
    "modules": sorted(modules),
    "absent": sorted(absent),
}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The tracked tree, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("source") / "codesign"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("codesign", *LINKED):
        shutil.copytree(
            ROOT / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    return copy


def built(source, hook, folder):
    """A wheel by one of setuptools' hooks, unpacked as an installer does."""
    wheels = folder / "wheels"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"from setuptools.build_meta import {hook}; {hook}({str(wheels)!r})",
        ],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("*.whl")
    installed = folder / "site-packages"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    return installed


def dependencies(folder):
    """All that is installed here but this package, as links."""
    folder.mkdir()
    for place in {
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
    }:
        for path in Path(place).iterdir() if Path(place).is_dir() else ():
            ours = path.name.startswith(("codesign", "__editable__", "_codesign"))
            if not ours and path.suffix != ".pth" and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["checkout", "editable", "plain"])
def test_everything_is_found_once(source, tmp_path, way):
    path = [str(dependencies(tmp_path / "dependencies"))]
    if way == "checkout":
        path, installed = [str(source), *path], []
    else:
        hook = "build_editable" if way == "editable" else "build_wheel"
        installed = [str(built(source, hook, tmp_path))]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-S", "-c", FOUND, *installed],
        cwd=elsewhere,
        env={**environment, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["absent"]) <= OF_EXTRAS
    assert found["twice"] == {}
    assert found["classes"] > 200
    assert found["classes twice"] == []
    # A checkout's root is on the path, and holds the folders themselves.
    assert found["strays"] == (["models", "train", "configs"] if way == "checkout" else [])
    assert {"codesign.train.losses", "codesign.configs.quickstart"} <= set(found["modules"])
    home = installed[0] if way == "plain" else str(source)
    assert os.path.realpath(found["models"]).startswith(os.path.realpath(home))


def test_the_links_lead_to_the_folders():
    for name in LINKED:
        link = ROOT / "codesign" / name
        assert link.is_symlink(), f"{link}: clone with `git -c core.symlinks=true clone`"
        assert os.readlink(link) == f"../{name}"


def imported(path, modules):
    """Modules that one imports as it is itself imported, annotations apart."""
    found, bodies = set(), [ast.parse(path.read_text()).body]
    while bodies:
        for node in bodies.pop():
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (names & modules) or {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Try) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
            ):
                bodies.append(node.body)
    return found & modules


def circles(graph):
    """What is left of a graph without the nodes that lead to no circle."""
    left = {node: set(following) for node, following in graph.items()}
    while ends := [node for node, following in left.items() if not following & left.keys()]:
        for node in ends:
            del left[node]
    return left


def test_imports_go_one_way():
    """Neither modules nor packages import each other in a circle."""
    modules = {}
    for folder, prefix in (("codesign", ""), *((name, "codesign.") for name in LINKED)):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if folder != "codesign" or parts[1] not in LINKED:
                modules[prefix + ".".join(parts).removesuffix(".__init__")] = path
    assert {"codesign", "codesign.cost.model", "codesign.train.run"} <= modules.keys()
    graph = {name: imported(path, modules.keys()) - {name} for name, path in modules.items()}
    assert circles(graph) == {}
    packages = {}
    for name, following in graph.items():
        package = ".".join(name.split(".")[:2])
        after = {".".join(other.split(".")[:2]) for other in following}
        packages.setdefault(package, set()).update(after - {package})
    assert "codesign.models" in packages["codesign.train"]
    assert circles(packages) == {}
    # The search itself would find one.
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": set()}).keys() == {"a", "b", "c"}
