"""Parts of users' own: objects, and FILE.py:NAME of them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import codesign as cd
from codesign.constraints import first_problem
from codesign.cost import tables
from codesign.cost.components import nominal
from codesign.cost.least import covers
from codesign.costing import CATRANSFORMERS, PHYSICAL, costing_of
from codesign.design_file import parse_design
from codesign.errors import UserError
from codesign.models import full_gates
from codesign.models.importance import score_units
from codesign.search.objectives import objective
from codesign.train.config import TargetConfig
from codesign.train.data import Source, SourceConfig, open_source
from codesign.userfile import is_member, load_member

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def write(tmp_path):
    def file(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return file


def test_names_of_a_file(write):
    path = write("a b.py", "import sys\nx = object()\nprint('hi')\n")
    assert is_member(f"{path}:x") and not is_member(path) and not is_member("carbon:x")
    assert load_member(f"{path}:x", "thing") is load_member(f"{path}:x", "thing"), "run once"
    with pytest.raises(UserError, match=r"defines no y; choose from .*x"):
        load_member(f"{path}:y", "thing")
    with pytest.raises(UserError, match=r"there is no file of the thing .*none\.py"):
        load_member("none.py:x", "thing")
    broken = write("broken.py", "\n1 / 0\n")
    with pytest.raises(UserError, match=r"broken\.py, line 2: ZeroDivisionError"):
        load_member(f"{broken}:x", "thing")


def test_an_objective_of_a_file(write):
    path = write("o.py", "number = 3\ndef heat_j(costs):\n    return 2 * costs.energy_j\n")
    found = objective(f"{path}:heat_j")
    assert (found.name, found.key, found.monotone) == ("heat", "heat_j", False)
    costs = cd.estimate(cd.clip_vit_b16(), cd.Accelerator())
    assert found(costs) == 2 * costs.energy_j
    assert first_problem(TargetConfig(mode=f"{path}:heat_j")) is None
    for name, said in (("number", "is a int, not a function"), ("cold_j", "defines no cold_j")):
        with pytest.raises(ValueError, match=said):
            objective(f"{path}:{name}")
        assert first_problem(TargetConfig(mode=f"{path}:{name}")) is not None


PARTS = ("component", "energy_pj", "area_um2", "power_uw")


def parts(write, **energies_pj):
    """A table of ours with other energies."""
    rows = [dict(row) for row in tables.rows("components_22nm")]
    for row in rows:
        row["energy_pj"] = energies_pj.get(row["component"], row["energy_pj"])
    lines = [",".join(PARTS), *(",".join(str(row[c]) for c in PARTS) for row in rows)]
    return write("parts.csv", "\n".join(lines))


def costing(write, **fields):
    given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return write(
        "costs.py",
        "import dataclasses\nfrom codesign.costing import PHYSICAL\n"
        f"mine = dataclasses.replace(PHYSICAL, name='mine', {given})\nnone = 3\n",
    )


def test_a_costing_of_a_file_prices_by_its_components(write):
    base = nominal(PHYSICAL).of("mac")
    path = costing(write, components=parts(write, mac=repr(base + 1.0)))
    mine = cd.Scenario(costing=f"{path}:mine")
    assert nominal(costing_of(mine)).of("mac") == base + 1.0
    clip, chip = cd.clip_vit_b16(), cd.Accelerator()
    usual, other = cd.estimate(clip, chip), cd.estimate(clip, chip, mine)
    macs = other.breakdown["energy_j"]["mac"] / usual.breakdown["energy_j"]["mac"]
    assert macs == pytest.approx((base + 1.0) / base, rel=1e-4)
    # The mapper may choose otherwise for it, by little.
    assert other.latency_s == pytest.approx(usual.latency_s, rel=1e-3)
    assert other.embodied_kgco2e == usual.embodied_kgco2e


def test_bounds_are_used_of_known_rules_alone():
    assert covers(PHYSICAL) and not covers(CATRANSFORMERS)
    assert covers(dataclasses.replace(PHYSICAL, name="mine", components="parts.csv"))
    assert not covers(dataclasses.replace(PHYSICAL, vector_costs=lambda *_: None))


def test_what_is_no_costing_is_a_line(write):
    path = costing(write, components=write("few.csv", "component,energy_pj\nmac,1\n"))
    for name, said in (
        ("mine", r"few\.csv: \w+ needs a number"),
        ("none", r"none is a int; it must be a codesign\.costing\.Costing"),
        ("absent", r"costs\.py defines no absent"),
    ):
        with pytest.raises((ValueError, UserError), match=said):
            cd.estimate(cd.clip_vit_b16(), cd.Accelerator(), cd.Scenario(costing=f"{path}:{name}"))


def test_a_design_file_runs_nothing(write):
    path = write("evil.py", "raise SystemExit('ran')\n")
    with pytest.raises(UserError, match=r"x\.json: scenario\.costing: a design file runs no code"):
        parse_design(
            {"architecture": {}, "accelerator": {}, "scenario": {"costing": f"{path}:x"}}, "x.json"
        )


BARS = """
import numpy as np
from codesign.train.data import Source

def source(name, n):
    return Source(
        name=name, labels=np.zeros(n, np.int32), captions=lambda i: (f"{name} {i}",),
        image=lambda i: np.full((4, 4), i, np.uint8), where=lambda i: f"{name} {i}",
        class_names=("bar",),
    )

def bars():
    return {"train": source("a", 5), "test": source("b", 3)}

def fails():
    raise KeyError("no such bar")

one = source("one", 4)
number = 3
"""


def test_data_of_a_file(write):
    path = write("bars.py", BARS)
    train = open_source(SourceConfig(f"{path}:bars"))
    assert len(train) == 5 and train[4].captions == ("a 4",) and (train[4].image == 4).all()
    assert len(open_source(SourceConfig(f"{path}:bars", split="test"))) == 3
    assert len(open_source(SourceConfig(f"{path}:bars", split="all"))) == 8
    assert len(open_source(SourceConfig(f"{path}:one", limit=2))) == 2
    for name, said in (
        ("fails", "fails: KeyError: 'no such bar'"),
        ("number", "number gives a int: it must give a codesign.train.data.Source"),
    ):
        with pytest.raises(UserError, match=said):
            open_source(SourceConfig(f"{path}:{name}"))
    with pytest.raises(UserError, match=r"has no split validation \(it has: train, test\)"):
        open_source(SourceConfig(f"{path}:bars", split="validation"))


@pytest.fixture(scope="module")
def clip():
    from simulators.networks import random_clip

    tower = cd.Tower(layers=2, width=8, heads=2, ffn=16)
    architecture = cd.Architecture(
        vision=tower,
        text=tower,
        patch=4,
        image=8,
        channels=1,
        context=4,
        projection=8,
        head_dim=4,
        vocab=32,
    )
    return random_clip(architecture)


CRITERIA = """
import jax
import jax.numpy as jnp
from codesign.models import full_gates

def last(clip, batches):
    return jax.tree.map(
        lambda gate: jnp.broadcast_to(jnp.arange(gate.shape[-1], dtype=jnp.float32), gate.shape),
        full_gates(clip.architecture),
    )

def nan(clip, batches):
    return jax.tree.map(lambda gate: gate * jnp.nan, full_gates(clip.architecture))

def nothing(clip, batches):
    return None
"""


def first(clip, batches):
    """The first units are the best."""
    return jax.tree.map(
        lambda gate: -jnp.broadcast_to(jnp.arange(gate.shape[-1], dtype=jnp.float32), gate.shape),
        full_gates(clip.architecture),
    )


def test_a_criterion_of_ones_own_decides_what_is_kept(clip, write):
    path = write(
        "c.py",
        CRITERIA,
    )
    kept = {
        name: cd.prune(clip, {"ffn": 0.5}, method=method)
        for name, method in (("first", first), ("last", f"{path}:last"))
    }
    whole = np.asarray(clip.vision.blocks.fc1[...])
    np.testing.assert_array_equal(kept["first"].vision.blocks.fc1[...], whole[..., :8])
    # Channels are kept, in the criterion's order.
    np.testing.assert_array_equal(
        kept["last"].vision.blocks.fc1[...], whole[:, ::-1, ::-1][..., :8]
    )
    for name, said in (("nan", "not finite"), ("nothing", "gives a NoneType; it must give")):
        with pytest.raises(ValueError, match=said):
            score_units(clip, None, f"{path}:{name}")


def test_a_source_itself_is_what_pruning_is_measured_on(clip):
    """Random numbers as pictures: the scores are those of these, and differ from others'."""
    from codesign.models.formats.image_settings import ImageSettings
    from codesign.models.formats.processor import Processor
    from codesign.train.data.tokenizer import train_tokenizer

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (16, 8, 8)).astype(np.uint8)
    source = Source(
        name="noise",
        labels=np.full(16, -1, np.int32),
        captions=lambda i: (f"noise {i}",),
        image=lambda i: pictures[i],
        where=str,
    )
    settings = ImageSettings(size=8, mean=(0.5,), std=(0.5,))
    words = train_tokenizer([f"noise {i}" for i in range(16)]).fast()
    processor = Processor(settings, words, 4)
    small = cd.prune(
        clip, {"ffn": 0.5}, source, processor=processor, samples=16, batch_size=8, threads=1
    )
    assert small.architecture.vision.ffn == 8
