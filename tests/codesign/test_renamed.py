"""Old names of fields: read from Python, files and command lines, and never written."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import pickle
import re
import sys
import warnings

import jax
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cli import main
from codesign.design_file import design_to_json, load_design, parse_design
from codesign.errors import UserError
from codesign.oracle import cache
from codesign.oracle.interface import Constants, Events, Point, Sample
from codesign.oracle.zigzag import ZigZag
from codesign.overrides import load_config
from codesign.renamed import (
    RENAMED,
    RetiredWarning,
    accepts_old_names,
    current,
    current_keys,
    current_nest,
)
from codesign.runs import CONFIG, DESIGNS, METRICS, RunFolder, read_run, write_json
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices
from codesign.train.config import OptimConfig
from codesign.train.dress.config import SubnetsConfig

CONSTANTS = Constants(*(float(i) for i in range(1, 12)))
# One of each class, and its renamed fields.
MARKED = (
    (Accelerator(), ["l2_words_per_cycle"]),
    (AcceleratorChoices(), ["l2_words_per_cycle"]),
    (Scenario(), ["glb_words_per_cycle"]),
    (CONSTANTS, ["dram_words_per_cycle", "glb_words_per_cycle"]),
    (Events(1, 2, 3, 4, 5, 6), ["dram_words"]),
    (ZigZag(), ["register_bytes"]),
    (OptimConfig(), ["lr_warmup_steps"]),
    (SubnetsConfig(), ["dense_member"]),
)
CASES = [(obj, old) for obj, olds in MARKED for old in olds]


def old_json(text: str) -> str:
    """What an earlier version wrote."""
    for old, new in RENAMED.items():
        text = text.replace(new, old)
    return text


@pytest.mark.parametrize(("obj", "old"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_old_keywords_and_attributes_work_and_warn(obj, old):
    new, cls = RENAMED[old], type(obj)
    by_name = obj._asdict() if isinstance(obj, tuple) else dict(vars(obj))
    value = by_name.pop(new)
    says = rf"{cls.__name__}: {old} is now called {new}"
    with pytest.warns(DeprecationWarning, match=says) as caught:
        assert cls(**by_name, **{old: value}) == obj
    assert caught[0].filename == __file__  # blames the caller
    with pytest.warns(DeprecationWarning, match=says) as caught:
        assert getattr(obj, old) == value
    assert caught[0].filename == __file__
    replace = type(obj)._replace if isinstance(obj, tuple) else dataclasses.replace
    other = (7,) if isinstance(value, tuple) else 7
    with pytest.warns(DeprecationWarning, match=says) as caught:
        assert getattr(replace(obj, **{old: other}), new) == other
    assert caught[0].filename == __file__
    with pytest.raises(TypeError, match=f"{old} is the old name of {new}; give one of them"):
        cls(**by_name, **{old: value, new: value})
    with pytest.raises(TypeError):
        cls(**by_name, **{new: value}, nonsense=1)


@pytest.mark.parametrize("obj", [obj for obj, _ in MARKED], ids=lambda x: type(x).__name__)
def test_new_names_never_warn(obj):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pickle.loads(pickle.dumps(obj)) == obj == copy.deepcopy(obj)
        if isinstance(obj, tuple):
            assert type(obj)(**obj._asdict()) == obj == obj._replace()
        else:
            assert dataclasses.replace(obj) == obj and dataclasses.asdict(obj)
            assert not set(RENAMED) & {f.name for f in dataclasses.fields(obj)}
        jax.tree.map(lambda x: x, obj)
        assert repr(obj) and hash(obj) is not None
    if sys.version_info >= (3, 13) and not isinstance(obj, tuple):
        old = next(o for o in RENAMED if hasattr(type(obj), o))
        with pytest.warns(DeprecationWarning, match="is now called"):
            copy.replace(obj, **{old: 7})


def test_a_class_without_renamed_fields_is_not_to_be_marked():
    @dataclasses.dataclass
    class Other:
        words: int = 1

    with pytest.raises(TypeError, match="Other has no field that was renamed"):
        accepts_old_names(Other)


def test_keys_of_files():
    assert current("space.l2_words_per_cycle") == "space.l2_bytes_per_cycle"
    assert current("relaxed.words_per_cycle") == "relaxed.words_per_cycle"
    assert list(current_keys({"a": 1, "dram_words": 2, "b": 3})) == ["a", "dram_bytes", "b"]
    nest = {"x": [{"accelerator.l2_words_per_cycle": {"glb_words_per_cycle": [1]}}], "y": None}
    assert current_nest(nest) == {
        "x": [{"accelerator.l2_bytes_per_cycle": {"glb_bytes_per_cycle": [1]}}],
        "y": None,
    }
    with pytest.raises(UserError, match=r"^x\[0\]\.dram_words is the old name of dram_bytes; keep"):
        current_nest({"x": [{"dram_bytes": 1, "dram_words": 1}]})


def design(**changes):
    chip = {"cores": 2, "l2_words_per_cycle": 32} | changes
    scenario = {"glb_words_per_cycle": 256}
    return {"architecture": {}, "accelerator": chip, "scenario": scenario}


def test_design_files(tmp_path):
    file = tmp_path / "old.json"
    file.write_text(json.dumps([design() | {"name": "a", "costs": {}}]))
    found = load_design(file, name="a")
    assert found.accelerator == Accelerator(cores=2, l2_bytes_per_cycle=32)
    assert found.scenario == Scenario(glb_bytes_per_cycle=256)
    written = json.dumps(design_to_json(found))
    assert "words_per_cycle" not in written
    assert parse_design(json.loads(written)) == parse_design(json.loads(old_json(written))) == found
    with pytest.raises(UserError) as caught:
        parse_design(design(l2_bytes_per_cycle=64), "f.json")
    assert str(caught.value) == (
        "f.json: accelerator.l2_words_per_cycle is the old name of l2_bytes_per_cycle; "
        "keep one of them"
    )
    with pytest.raises(UserError, match=r"accelerator.l2_bytes_per_cycle: 33 is off the grid"):
        parse_design(design(l2_words_per_cycle=33))
    with pytest.raises(UserError, match=r"l2_word_per_cycle: unknown key"):
        parse_design(design(l2_word_per_cycle=32))


def test_overrides():
    config = load_config(
        "quickstart",
        [
            "--space.accelerator.l2_words_per_cycle=[16,32]",
            "--scenario.glb_bytes_per_cycle=64",
            "--scenario.glb_bytes_per_cycle=128",
        ],
    )
    assert config.scenario.glb_bytes_per_cycle == 128.0  # the last of the same option holds
    assert config.space.accelerator.l2_bytes_per_cycle == (16, 32)
    pair = ["--scenario.glb_words_per_cycle=8", "--scenario.glb_bytes_per_cycle=8"]
    for both in (pair, pair[::-1]):
        with pytest.raises(UserError) as caught:
            load_config("quickstart", both)
        assert str(caught.value) == (
            "--scenario.glb_words_per_cycle is the old name of --scenario.glb_bytes_per_cycle; "
            "give one of them"
        )
    with pytest.raises(UserError, match=r"unknown option --optim\.dram_words_per_cycle"):
        load_config("quickstart", ["--optim.dram_words_per_cycle=8"])
    with pytest.raises(UserError, match=r"--scenario\.glb_words_per_cycle needs a value"):
        load_config("quickstart", ["--scenario.glb_words_per_cycle"])


def test_config_files(tmp_path):
    """A user's own config of an earlier version; one line where it gives both."""
    text = """import dataclasses
from codesign.scenario import Scenario
from codesign.search.hardware import HardwareConfig
from codesign.space import AcceleratorChoices
config = HardwareConfig(
    space=AcceleratorChoices(l2_words_per_cycle=(16, 32){both}),
    scenario=dataclasses.replace(Scenario(), glb_words_per_cycle=32.0),
)
"""
    file = tmp_path / "own.py"
    file.write_text(text.format(both=""))
    with pytest.warns(DeprecationWarning, match="is now called") as caught:
        config = load_config(str(file))
    assert {w.filename for w in caught} == {str(file)} and len(caught) == 2
    assert config.space.l2_bytes_per_cycle == (16, 32)
    assert config.scenario.glb_bytes_per_cycle == 32.0
    file.write_text(text.format(both=", l2_bytes_per_cycle=(8,)"))
    with pytest.raises(UserError) as error:
        load_config(str(file))
    assert str(error.value) == (
        f"{file}, line 6: TypeError: AcceleratorChoices: l2_words_per_cycle is the old name of "
        "l2_bytes_per_cycle; give one of them"
    )


def test_run_folders(tmp_path):
    """An earlier version's run is read, and resumed where its config is the same."""
    config = {"seed": 0, "scenario": {"dram_bytes_per_cycle": 4.0}}
    folder = RunFolder.create(tmp_path / "run", config)
    relaxed = {"step": 1, "relaxed": {"accelerator.l2_bytes_per_cycle": [8.0]}}
    folder.append_metrics([relaxed])
    folder.write_json(DESIGNS, [design_to_json(parse_design(design()))])
    files = [folder.path / name for name in (CONFIG, DESIGNS, METRICS)]
    new = read_run(folder.path)
    for file in files:
        before = file.read_text()
        assert "bytes_per_cycle" in before
        file.write_text(old_json(before))
        assert "bytes_per_cycle" not in file.read_text()
    assert read_run(folder.path) == new
    resumed = RunFolder.create(folder.path, config, resume=True)
    assert resumed.resumed
    resumed.truncate_metrics(1)
    assert json.loads((folder.path / METRICS).read_text()) == relaxed
    changed = {"seed": 0, "scenario": {"dram_bytes_per_cycle": 8.0}}
    with pytest.raises(UserError, match=r"scenario.dram_bytes_per_cycle was 4.0, is 8.0; set"):
        RunFolder.create(folder.path, changed, resume=True)
    write_json(folder.path / CONFIG, {"config": {"dram_words": 1, "dram_bytes": 1}})
    with pytest.raises(UserError, match=r"config.json: config.dram_words is the old name of"):
        read_run(folder.path)


def test_bought_samples_of_an_earlier_version(tmp_path):
    """Their file has another name, older columns and no precision."""
    oracle = ZigZag()
    key = (5.0, 3.0, 8.0, 1.0, 32.0, 2.0, 64.0, 32.0, 2.0)
    asked = Point(5, 3, 8, Accelerator(*key[3:]), CONSTANTS)
    sample = Sample(100.0, Events(1, 2, 3, 4, 5, 6).energy_pj(asked), Events(1, 2, 3, 4, 5, 6))
    cache.write(tmp_path / "new.csv", oracle, [(asked, sample)], digits=9)
    lines = [line.split(",") for line in (tmp_path / "new.csv").read_text().splitlines()[2:]]
    assert lines[0].pop() == cache.CHECK
    lines[1].pop()
    at = lines[0].index("precision_bits")
    older = [",".join(line[:at] + line[at + 1 :]) for line in lines]
    head = [cache._title(oracle), "# units"]
    text = "\n".join([*head, old_json(older[0]).replace("register_bytes", "x"), older[1], ""])
    (tmp_path / "zigzag-0123abcd.csv").write_text(text)
    (tmp_path / "zigzag-ffffffff.csv").write_text("# samples of oracle zigzag: other settings\n")
    found = cache.find(cache.read_folder(tmp_path, oracle), asked)
    assert found is not None and found.sample == sample
    wide = asked._replace(constants=dataclasses.replace(CONSTANTS, precision_bits=16))
    assert cache.find(cache.read_folder(tmp_path, oracle), wide) is None
    damaged = text.replace("dram_words_per_cycle", "dram_words_per_cycle,dram_bytes_per_cycle")
    (tmp_path / "zigzag-0123abcd.csv").write_text(damaged)
    with pytest.raises(UserError, match="does not hold samples of zigzag; move it away"):
        cache.read_folder(tmp_path, oracle)


def test_numbers_are_the_same_by_either_name():
    with pytest.warns(DeprecationWarning, match="is now called"):
        old = Scenario(glb_words_per_cycle=32.0)
    new = Scenario(glb_bytes_per_cycle=32.0)
    assert old == new and hash(old) == hash(new)
    leaves = np.array(jax.tree.leaves(Accelerator()))
    with pytest.warns(DeprecationWarning, match="is now called"):
        assert (leaves == np.array(jax.tree.leaves(Accelerator(l2_words_per_cycle=64)))).all()


# --- fields that are no more ----------------------------------------------------------------


def test_a_file_that_states_the_old_bandwidth_is_read_with_a_line(tmp_path, capsys):
    """And one that names the technology of the carbon alone; both as runs once wrote them."""
    file = tmp_path / "old.json"
    for name in ("dram_bytes_per_cycle", "dram_words_per_cycle"):
        scenario = {name: 128.0, "dram_technology": "lpddr3_20nm", "dram_gb": 1.0}
        file.write_text(json.dumps({"architecture": {}, "accelerator": {}, "scenario": scenario}))
        with pytest.warns(RetiredWarning) as caught:
            assert load_design(file).scenario == Scenario(dram_gb=1.0)
        lines = [str(w.message) for w in caught]
        assert lines[0].startswith("scenario.dram_bytes_per_cycle is passed over: the bandwidth ")
        assert "accelerator.channels" in lines[0] and "lpddr4 is taken" in lines[1]
    # The reference's costing keeps its technologies.
    scenario |= {"costing": "catransformers"}
    file.write_text(json.dumps({"architecture": {}, "accelerator": {}, "scenario": scenario}))
    with pytest.warns(RetiredWarning) as caught:
        assert load_design(file).scenario.dram_technology == "lpddr3_20nm"
    assert len(caught) == 1


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    file = tmp_path / "old.json"
    file.write_text(
        json.dumps(
            {
                "architecture": {"nonsense": 1},
                "accelerator": {},
                "scenario": {},
            }
        )
    )
    config = ["search", "hardware", "--scenario.dram_words_per_cycle", "64", "--model", str(file)]
    assert main(config) == 2
    first, second, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("codesign: warning: --scenario.dram_words_per_cycle is passed over: ")
    assert "nonsense" in second and not rest


def test_the_old_bandwidth_in_python():
    for name in ("dram_bytes_per_cycle", "dram_words_per_cycle"):
        with pytest.warns(RetiredWarning, match=f"Scenario: {name} is passed over"):
            assert Scenario(**{name: 4.0}) == Scenario()
        with pytest.warns(RetiredWarning, match="passed over"):
            assert dataclasses.replace(Scenario(), **{name: 4.0}) == Scenario()
    with pytest.raises(TypeError):
        Scenario(nonsense=4.0)


@pytest.mark.parametrize(
    ("module", "old", "now", "new"),
    [
        ("codesign.search.exact", "best_accelerator", "codesign.search.grid", "best_accelerator"),
        ("codesign.workload.clip", "Clip", "codesign.workload.clip", "ClipNetwork"),
        ("codesign.train.run", "Run", "codesign.train.run", "training_of"),
        ("codesign.train.dress.classifier", "Classifier", "codesign.train.classifier", ""),
    ],
)
def test_names_that_are_elsewhere_work_and_warn(module, old, now, new):
    former, present = importlib.import_module(module), importlib.import_module(now)
    says = re.escape(f"{module}.{old} is now {now}.{new or old}")
    with pytest.warns(DeprecationWarning, match=says) as caught:
        assert getattr(former, old) is getattr(present, new or old)
    assert caught[0].filename == __file__
    for other in ("Nothing", "_private", "__path__"):
        with pytest.raises(AttributeError, match=f"has no attribute '{other}'"):
            getattr(former, other)
